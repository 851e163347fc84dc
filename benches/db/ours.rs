//! The five statements as rooms write them: once.

use optin::args;
use optin::db::{Db, DbError};

use super::{APPEND, CLAIM_SQL, COUNT, REPORT, UPSERT};

pub async fn upsert(db: &Db, count: i64, round: i64) -> Result<i64, DbError> {
    let mut tx = db.begin().await?;
    let mut sum = 0;
    for id in 1..=count {
        let email = format!("reader-{id}@example.com");
        let row = tx.fetch_one(UPSERT, args![-id, &email, &email, "小明", "zh-TW", round]).await?;
        sum += row.get::<i64>(0)?;
    }
    tx.commit().await?;
    Ok(sum)
}

pub async fn append(db: &Db, count: i64) -> Result<u64, DbError> {
    let mut tx = db.begin().await?;
    let mut touched = 0;
    for seq in 1..=count {
        let none: Option<&str> = None;
        touched +=
            tx.execute(APPEND, args![seq, 1_i64, seq, 7_i64, "granted", "shop checkout", Some(seq), none, none, vec![7_u8; 32]]).await?;
    }
    tx.rollback().await?;
    Ok(touched)
}

pub async fn claim(db: &Db, limit: i64, times: usize) -> Result<i64, DbError> {
    let mut tx = db.begin().await?;
    let mut sum = 0;
    for _ in 0..times {
        for row in tx.fetch_all(CLAIM_SQL, args![9_i64, 10_i64, 1_i64, limit]).await? {
            let (id, contact): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (attempts, state, reason): (i64, String, Option<String>) = (row.get(2)?, row.get(3)?, row.get(4)?);
            sum += id + contact + attempts + state.len() as i64 + reason.map_or(0, |reason| reason.len() as i64);
        }
    }
    tx.rollback().await?;
    Ok(sum)
}

pub async fn count(db: &Db) -> Result<i64, DbError> {
    db.fetch_one(COUNT, args!["zh-TW", 1_i64]).await?.get(0)
}

pub async fn report(db: &Db) -> Result<Vec<(String, Option<String>, i64, i64)>, DbError> {
    let rows = db.fetch_all(REPORT, args![1_i64]).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).collect()
}
