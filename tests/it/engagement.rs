//! How people respond: scores that decay, habits, stages; computed again from sums that retention leaves alone.

use std::collections::BTreeMap;

use optin::args;
use optin::clock::{DAY, HOUR, Time};
use optin::config::{Attribution, AttributionModel, EngagementSettings};
use optin::db::Db;
use optin::tracking::engagement::{Habit, score};
use optin::tracking::engagement_ops::{self as engagement, KnownRuns, OfTopic, Rules};

use crate::support::on_each_database;

pub(crate) const NOW: Time = Time::from_millis(1_790_000_000_000);

pub(crate) fn rules(model: AttributionModel) -> Rules {
    Rules {
        engagement: EngagementSettings { half_life_days: 30, cooling_days: 90, dormant_days: 180 },
        attribution: Attribution { model, within_days: 7 },
        zone: jiff::tz::TimeZone::UTC,
    }
}

/// Somebody with this id.
pub(crate) async fn person(db: &Db, id: i64, timezone: Option<&str>) {
    let sql = "INSERT INTO contact (id, email, email_key, timezone, created_at, updated_at) VALUES ($1, $2, $2, $3, 1, 1)";
    db.execute(sql, args![id, format!("p{id}@tea.example"), timezone]).await.unwrap();
}

/// A run of a campaign that says this much about itself beyond what every definition says.
pub(crate) async fn run(db: &Db, id: i64, topic_id: i64, attribution: Option<&str>) {
    let attribution = attribution.map_or(String::new(), |text| format!(",\"attribution\":{text}"));
    let definition = format!(
        r#"{{"campaign":"c{id}","topic":"t","topic_name":"T","audience":null,"subject":"s","preheader":null,"layout":"newsletter",
        "layout_text":null,"body":"b","body_kind":"markdown","track_opens":true,"track_clicks":true,
        "sender":{{"name":"n","email":"a@b.example","reply_to":null,"postal_address":"p"}}{attribution}}}"#
    );
    assert!(serde_json::from_str::<optin::campaign::Definition>(&definition).is_ok(), "{definition}");
    db.execute(
        "INSERT INTO run (id, campaign, topic_id, firing, state, scheduled_at, created_at, definition_hash, definition, excluded,
           audience, audience_cursor, audience_done)
         VALUES ($1, $2, $3, 'x', 'done', 1, 1, $2, $4, '{}', 0, 0, TRUE)",
        args![id, format!("c{id}"), topic_id, definition],
    )
    .await
    .unwrap();
}

/// A hit as it is written and added up: `link` is `None` for an open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hit {
    pub id: i64,
    pub contact: i64,
    pub delivery: i64,
    pub run: i64,
    pub link: Option<i64>,
    pub at: Time,
    pub human: bool,
}

/// Writes the row; the sums follow with [`add_up`].
pub(crate) async fn hit(db: &Db, hit: Hit) {
    let verdict = if hit.human { "human" } else { "machine" };
    let kind = if hit.link.is_some() { "click" } else { "open" };
    db.execute(
        "INSERT INTO hit (id, at, kind, delivery_id, run_id, contact_id, link, verdict, signals) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '')",
        args![hit.id, hit.at, kind, hit.delivery, hit.run, hit.contact, hit.link, verdict],
    )
    .await
    .unwrap();
    add_up(db, hit.delivery, hit.contact).await;
}

/// Makes the sums of a mail equal to its rows, and its person due.
pub(crate) async fn add_up(db: &Db, delivery: i64, contact: i64) {
    let mut tx = db.begin().await.unwrap();
    tx.execute("DELETE FROM hit_total WHERE delivery_id = $1", args![delivery]).await.unwrap();
    for (which, link) in [("kind = 'open'", "-1"), ("kind = 'click'", "-2"), ("kind = 'click'", "link")] {
        let sql = format!(
            "INSERT INTO hit_total (delivery_id, link, run_id, contact_id, human, machine, unknowable, first_at, last_at)
             SELECT delivery_id, {link}, MIN(run_id), MIN(contact_id),
               CAST(SUM(CASE WHEN verdict = 'human' THEN times ELSE 0 END) AS BIGINT),
               CAST(SUM(CASE WHEN verdict = 'machine' THEN times ELSE 0 END) AS BIGINT), 0,
               MIN(CASE WHEN verdict = 'human' THEN at END), MAX(CASE WHEN verdict = 'human' THEN at END)
             FROM hit WHERE delivery_id = $1 AND {which} GROUP BY delivery_id{}",
            if link == "link" { ", link" } else { "" }
        );
        tx.execute(&sql, args![delivery]).await.unwrap();
    }
    engagement::touch(&mut tx, &[contact], NOW).await.unwrap();
    tx.commit().await.unwrap();
}

/// Computes all who are due; answers how many there were.
pub(crate) async fn settle(db: &Db, rules: &Rules, now: Time) -> usize {
    let mut known = KnownRuns::default();
    let mut all = 0;
    loop {
        match engagement::refresh(db, rules, &mut known, now).await.unwrap() {
            0 => return all,
            some => all += some,
        }
    }
}

async fn of(db: &Db, contact: i64) -> Vec<OfTopic> {
    engagement::of_contact(&mut db.clone(), contact).await.unwrap()
}

/// The sums over all people equal the rows.
async fn sums_equal_rows(db: &Db) {
    let mut rows: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for row in db.fetch_all("SELECT topic_id, hours FROM engagement", args![]).await.unwrap() {
        let habit = Habit::from_stored(&row.get::<String>(1).unwrap());
        let sums = rows.entry(row.get(0).unwrap()).or_insert_with(|| vec![0; Habit::PLACES]);
        sums.iter_mut().zip(habit.places()).for_each(|(sum, weight)| *sum += weight);
    }
    rows.retain(|_, places| places.iter().any(|weight| *weight != 0));
    let stored = db.fetch_all("SELECT topic_id, place, weight FROM engagement_prior WHERE weight <> 0", args![]).await.unwrap();
    let mut sums: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for row in stored {
        let place: i64 = row.get(1).unwrap();
        sums.entry(row.get(0).unwrap()).or_insert_with(|| vec![0; Habit::PLACES])[usize::try_from(place).unwrap()] = row.get(2).unwrap();
    }
    assert_eq!(rows, sums);
}

on_each_database! {
    async fn responses_count_once_a_mail_and_link_and_stay_when_raw_hits_go(database) {
        let db = database.open().await;
        let rules = rules(AttributionModel::LastClick);
        person(&db, 7, Some("Asia/Taipei")).await;
        person(&db, 8, None).await;
        run(&db, 1, 40, None).await;
        run(&db, 2, 41, None).await;
        let ago = |days: i64| NOW.plus(-days * DAY);
        let at = |id: i64, contact: i64, run: i64, link: Option<i64>, at: Time, human: bool| {
            Hit { id, contact, delivery: contact * 10 + run, run, link, at, human }
        };
        // Twice the same open, a click, a machine's click and one in another topic.
        hit(&db, at(1, 7, 1, None, ago(30), true)).await;
        hit(&db, at(2, 7, 1, None, ago(30), true)).await;
        hit(&db, at(3, 7, 1, Some(0), ago(30), true)).await;
        hit(&db, at(4, 7, 1, Some(1), ago(29), false)).await;
        hit(&db, at(5, 7, 2, Some(0), ago(60), true)).await;
        hit(&db, at(6, 8, 2, None, ago(1), false)).await;
        assert_eq!(settle(&db, &rules, NOW).await, 2);
        assert_eq!(settle(&db, &rules, NOW).await, 0, "nobody is due any more");

        let found = of(&db, 7).await;
        let brief: Vec<_> = found.iter().map(|row| (row.topic_id, row.sum.opens, row.sum.clicks)).collect();
        assert_eq!(brief, [(0, 2, 2), (40, 2, 1), (41, 0, 1)]);
        assert_eq!((found[0].sum.last_open_at, found[0].sum.last_click_at), (Some(ago(30)), Some(ago(30))));
        let scores: Vec<f64> = found.iter().map(|row| score(row.sum.weight, 30, NOW)).collect();
        assert!((scores[0] - 2.75).abs() < 1e-9 && (scores[1] - 2.0).abs() < 1e-9 && (scores[2] - 0.75).abs() < 1e-9, "{scores:?}");
        // 2026-09-21 14:13 UTC less whole days is 22:13 in Taipei.
        assert_eq!(found[0].best.map(|best| best.0), Some(22));
        assert_eq!(of(&db, 8).await, [], "a machine is nobody");
        sums_equal_rows(&db).await;

        // Put together, then deleted: nothing moves, however often it is computed again.
        db.execute("UPDATE hit SET times = 2 WHERE id = 1", args![]).await.unwrap();
        db.execute("DELETE FROM hit WHERE id = 2", args![]).await.unwrap();
        add_up(&db, 71, 7).await;
        assert_eq!(settle(&db, &rules, NOW).await, 1);
        assert_eq!(of(&db, 7).await, found);
        db.execute("DELETE FROM hit", args![]).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        engagement::touch(&mut tx, &[7, 8], NOW).await.unwrap();
        tx.commit().await.unwrap();
        settle(&db, &rules, NOW.plus(DAY)).await;
        assert_eq!(of(&db, 7).await, found);
        sums_equal_rows(&db).await;
    }
}

on_each_database! {
    async fn what_was_judged_anew_and_who_refused_profiling_is_computed_again(database) {
        let db = database.open().await;
        let rules = rules(AttributionModel::LastClick);
        person(&db, 7, None).await;
        run(&db, 1, 40, None).await;
        let click = Hit { id: 1, contact: 7, delivery: 71, run: 1, link: Some(0), at: NOW.plus(-HOUR), human: true };
        hit(&db, click).await;
        settle(&db, &rules, NOW).await;
        assert_eq!(of(&db, 7).await.len(), 2);
        db.execute("UPDATE hit SET verdict = 'machine'", args![]).await.unwrap();
        add_up(&db, 71, 7).await;
        settle(&db, &rules, NOW).await;
        assert_eq!(of(&db, 7).await, []);
        sums_equal_rows(&db).await;

        db.execute("UPDATE hit SET verdict = 'human'", args![]).await.unwrap();
        add_up(&db, 71, 7).await;
        let refuse = "INSERT INTO consent_choice (contact_id, tracking, profiling, last_seq, changed_at) VALUES (7, NULL, 'refused', 1, 1)";
        db.execute(refuse, args![]).await.unwrap();
        settle(&db, &rules, NOW).await;
        let found = of(&db, 7).await;
        assert_eq!((found[0].sum.clicks, found[0].sum.weight, found[0].best), (1, 0.0, None), "what happened, and nothing concluded");
        assert_eq!(found[0].sum.last_click_at, Some(click.at));
        sums_equal_rows(&db).await;
    }
}

on_each_database! {
    async fn two_that_are_one_person_respond_as_one_until_they_are_taken_apart(database) {
        let db = database.open().await;
        let rules = rules(AttributionModel::LastClick);
        for id in [7, 8, 9] {
            person(&db, id, None).await;
            hit(&db, Hit { id, contact: id, delivery: id, run: 1, link: Some(0), at: NOW.plus(-id * HOUR), human: true }).await;
        }
        run(&db, 1, 40, None).await;
        settle(&db, &rules, NOW).await;
        assert_eq!(of(&db, 9).await[0].sum.clicks, 1);
        let merge = async |kept: Option<i64>, gone: i64| {
            let mut tx = db.begin().await.unwrap();
            tx.execute("UPDATE contact SET merged_into = $1 WHERE id = $2", args![kept, gone]).await.unwrap();
            engagement::touch(&mut tx, &[gone], NOW).await.unwrap();
            tx.commit().await.unwrap();
            settle(&db, &rules, NOW).await;
        };
        merge(Some(8), 9).await;
        merge(Some(7), 8).await;
        assert_eq!((of(&db, 9).await, of(&db, 8).await), (vec![], vec![]));
        let both = of(&db, 7).await;
        assert_eq!((both[0].sum.clicks, both[0].sum.last_click_at), (3, Some(NOW.plus(-7 * HOUR))));
        sums_equal_rows(&db).await;
        let mut tx = db.begin().await.unwrap();
        tx.execute("UPDATE contact SET merged_into = NULL WHERE id = 8", args![]).await.unwrap();
        engagement::touch(&mut tx, &[7, 8], NOW).await.unwrap();
        tx.commit().await.unwrap();
        settle(&db, &rules, NOW).await;
        assert_eq!((of(&db, 7).await[0].sum.clicks, of(&db, 8).await[0].sum.clicks), (1, 2));
        sums_equal_rows(&db).await;
    }
}

on_each_database! {
    async fn a_habit_is_drawn_to_what_all_did_until_yesterday(database) {
        let db = database.open().await;
        let rules = rules(AttributionModel::LastClick);
        run(&db, 1, 40, None).await;
        let midnight = Time::parse("2026-09-21T00:00:00Z").unwrap();
        engagement::begin_day(&db, midnight).await.unwrap();
        // Eighty people click at eight, each once.
        for id in 100..180 {
            person(&db, id, None).await;
            hit(&db, Hit { id, contact: id, delivery: id, run: 1, link: Some(0), at: midnight.plus(8 * HOUR + id), human: true }).await;
        }
        settle(&db, &rules, midnight).await;
        let one = Hit { id: 7, contact: 7, delivery: 7, run: 1, link: Some(0), at: midnight.plus(21 * HOUR), human: true };
        person(&db, 7, None).await;
        hit(&db, one).await;
        settle(&db, &rules, midnight).await;
        // What happened today is no prior yet.
        assert_eq!(of(&db, 7).await[0].best, Some((21, 1)));
        let tomorrow = midnight.plus(DAY);
        engagement::begin_day(&db, tomorrow).await.unwrap();
        engagement::begin_day(&db, tomorrow).await.unwrap();
        for day in 1..=6_i64 {
            add_up(&db, 7, 7).await;
            settle(&db, &rules, tomorrow).await;
            let best = of(&db, 7).await[0].best.unwrap().0;
            assert_eq!(best, if day < 6 { 8 } else { 21 }, "after {day} responses");
            let more = Hit { id: 200 + day, delivery: 200 + day, at: one.at.plus(day * DAY), ..one };
            hit(&db, more).await;
        }
        // Who was erased leaves no trace in what is known of all.
        let mut tx = db.begin().await.unwrap();
        optin::tracking::forget::forget_contact(&mut tx, 7, &[]).await.unwrap();
        tx.commit().await.unwrap();
        settle(&db, &rules, tomorrow).await;
        assert_eq!(of(&db, 7).await, []);
        sums_equal_rows(&db).await;
    }
}

on_each_database! {
    async fn new_settings_have_everybody_computed_again(database) {
        let db = database.open().await;
        let month = rules(AttributionModel::LastClick);
        engagement::follow_rules(&db, &month, NOW).await.unwrap();
        person(&db, 7, None).await;
        run(&db, 1, 40, None).await;
        hit(&db, Hit { id: 1, contact: 7, delivery: 71, run: 1, link: Some(0), at: NOW.plus(-30 * DAY), human: true }).await;
        settle(&db, &month, NOW).await;
        engagement::follow_rules(&db, &month, NOW).await.unwrap();
        assert!(!engagement::any_due(&db).await.unwrap(), "the same settings ask for nothing");
        let year = Rules { engagement: EngagementSettings { half_life_days: 360, ..month.engagement }, ..month };
        engagement::follow_rules(&db, &year, NOW).await.unwrap();
        assert_eq!(settle(&db, &year, NOW).await, 1);
        let found = score(of(&db, 7).await[0].sum.weight, 360, NOW);
        assert!((found - 3.0 * (-1.0_f64 / 12.0).exp2()).abs() < 1e-9, "{found}");
    }
}
