//! Sample customers of the Tea House: made up, in English, traditional and simplified Chinese. All
//! addresses are under `.example`, which belongs to nobody (RFC 2606).

use std::io::Write;
use std::path::Path;

use crate::entropy::Entropy;

const ENGLISH_FIRST: &[&str] = &[
    "Amelia", "Oliver", "Isla", "Noah", "Zoë", "Liam", "Freya", "Arjun", "Maeve", "Théo", "Grace", "Samuel", "Ines", "Björn", "Priya",
    "Owen",
];
const ENGLISH_LAST: &[&str] = &[
    "Ashton", "O'Neil", "Baker", "Müller", "Singh", "Carter", "Dubois", "Evans", "Fischer", "Grant", "Hughes", "Ivanov", "Jones", "Keller",
];
const TRADITIONAL_FIRST: &[&str] = &["美玲", "志明", "雅婷", "家豪", "淑芬", "俊傑", "怡君", "冠宇", "詩涵", "柏翰", "佳穎", "宗翰"];
const TRADITIONAL_LAST: &[&str] = &["陳", "林", "黃", "張", "李", "王", "吳", "劉", "蔡", "楊", "許", "鄭", "歐陽"];
const SIMPLIFIED_FIRST: &[&str] = &["伟", "芳", "娜", "敏", "静", "丽", "强", "磊", "洋", "艳", "思远", "梓涵", "雨桐"];
const SIMPLIFIED_LAST: &[&str] = &["王", "李", "张", "刘", "陈", "杨", "赵", "黄", "周", "吴", "徐", "孙", "诸葛"];
const INTERESTS: &[&str] = &["oolong", "green", "black", "puerh", "teaware"];
const DOMAINS: &[&str] = &["mail.example", "post.example", "inbox.example", "例子.example"];

/// Where people of one language live: locale, zone, cities.
type Place = (&'static str, &'static str, &'static [&'static str]);
const ENGLISH_PLACES: &[Place] = &[
    ("en-GB", "Europe/London", &["London", "Leeds", "Bristol"]),
    ("en-US", "America/New_York", &["New York", "Boston"]),
    ("en", "Europe/Berlin", &["Berlin", "Zürich"]),
];
const TRADITIONAL_PLACES: &[Place] =
    &[("zh-Hant-TW", "Asia/Taipei", &["Taipei", "Tainan", "Taichung"]), ("zh-Hant-HK", "Asia/Hong_Kong", &["Hong Kong"])];
const SIMPLIFIED_PLACES: &[Place] = &[("zh-Hans-CN", "Asia/Shanghai", &["Shanghai", "Hangzhou", "Chengdu"])];

/// Writes a CSV file of `count` sample customers.
pub(super) fn write(file: &Path, count: usize, entropy: &Entropy) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
    writeln!(out, "email,first_name,last_name,locale,timezone,city,age,birthday,vip,interests,points,member_since")?;
    for number in 0..count {
        let (first, last, places) = match entropy.below(10) {
            0..=3 => (pick(ENGLISH_FIRST, entropy), pick(ENGLISH_LAST, entropy), ENGLISH_PLACES),
            4..=7 => (pick(TRADITIONAL_FIRST, entropy), pick(TRADITIONAL_LAST, entropy), TRADITIONAL_PLACES),
            _ => (pick(SIMPLIFIED_FIRST, entropy), pick(SIMPLIFIED_LAST, entropy), SIMPLIFIED_PLACES),
        };
        let (locale, timezone, cities) = places[entropy.below(places.len() as u64) as usize];
        let year = 1950 + entropy.below(55);
        let birthday = format!("{year}-{:02}-{:02}", 1 + entropy.below(12), 1 + entropy.below(28));
        let interests: Vec<&str> = INTERESTS.iter().filter(|_| entropy.chance(0.35)).copied().collect();
        // One in twelve gave no first name: the mail's default must serve.
        let first = if entropy.chance(0.08) { "" } else { first };
        writeln!(
            out,
            "guest{number:05}@{},{first},{last},{locale},{timezone},{},{},{birthday},{},{},{},{}-{:02}-15",
            pick(DOMAINS, entropy),
            pick(cities, entropy),
            2026 - year,
            entropy.chance(0.1),
            interests.join(";"),
            entropy.below(900),
            2019 + entropy.below(7),
            1 + entropy.below(12),
        )?;
    }
    out.flush()
}

fn pick(list: &[&'static str], entropy: &Entropy) -> &'static str {
    list[entropy.below(list.len() as u64) as usize]
}
