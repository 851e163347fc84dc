//! A ZIP file whose members are stored as they are (APPNOTE.TXT 6.3.3, sections 4.3.7, 4.3.12, 4.3.16).
//! Written here, because what we need of the format is three structures of fixed fields: a crate would
//! bring more than it does.

/// 1 January 1980, the first day that the format knows: the moment of writing stands in the data.
const DOS_DATE: u16 = 0x0021;
/// General purpose bit 11: names are UTF-8.
const UTF8: u16 = 1 << 11;
/// Version 2.0, and made on Unix, so that the mode below is read.
const VERSION: u16 = 20;
const MADE_BY_UNIX: u16 = 3 << 8 | VERSION;
/// A file that only its owner reads (`-rw-------`).
const MODE: u32 = 0o100_600 << 16;

/// The bytes of an archive with these members: name and content each. `None` where one is larger than the
/// format holds without extensions (4 GiB).
pub fn zip(members: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(members.iter().map(|(name, content)| content.len() + 2 * name.len() + 100).sum());
    let mut directory = Vec::new();
    for (name, content) in members {
        let offset = u32::try_from(out.len()).ok()?;
        let size = u32::try_from(content.len()).ok()?;
        let length = u16::try_from(name.len()).ok()?;
        let mut common = Vec::new();
        // Version needed, flags, stored, time, date, CRC, both sizes, length of the name, no extra field.
        for field in [VERSION, UTF8, 0, 0, DOS_DATE] {
            common.extend(field.to_le_bytes());
        }
        for field in [crc32(content), size, size] {
            common.extend(field.to_le_bytes());
        }
        common.extend(length.to_le_bytes());
        common.extend(0_u16.to_le_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(*content);
        directory.extend(b"PK\x01\x02");
        directory.extend(MADE_BY_UNIX.to_le_bytes());
        directory.extend(&common);
        // No comment, first disk, no internal attributes.
        directory.extend([0; 6]);
        directory.extend(MODE.to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = u32::try_from(out.len()).ok()?;
    let count = u16::try_from(members.len()).ok()?;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(u32::try_from(directory.len()).ok()?.to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend(0_u16.to_le_bytes());
    Some(out)
}

/// CRC-32 as in ISO 3309, reflected, polynomial 0xEDB88320.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_crc_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn an_archive_ends_with_a_directory_that_points_at_its_members() {
        let bytes = zip(&[("a.txt", b"abc"), ("茶.json", b"{}")]).expect("small");
        let end = bytes.len() - 22;
        assert_eq!(&bytes[end..end + 4], b"PK\x05\x06");
        let start = u32::from_le_bytes(bytes[end + 16..end + 20].try_into().expect("four bytes")) as usize;
        assert_eq!(&bytes[start..start + 4], b"PK\x01\x02");
        let second = start + 46 + "a.txt".len();
        let offset = u32::from_le_bytes(bytes[second + 42..second + 46].try_into().expect("four bytes")) as usize;
        assert!(bytes[offset..].starts_with(b"PK\x03\x04") && bytes[offset + 30..].starts_with("茶.json{}".as_bytes()));
    }
}
