//! The same five typed on sqlx's own pools: a macro writes each of them for both.

use super::{APPEND, CLAIM_SQL, COUNT, REPORT, UPSERT};

macro_rules! statements {
    ($name:ident, $pool:ty) => {
        pub mod $name {
            use super::*;

            pub async fn upsert(pool: &$pool, count: i64, round: i64) -> Result<i64, sqlx::Error> {
                let mut tx = pool.begin().await?;
                let mut sum = 0;
                for id in 1..=count {
                    let email = format!("reader-{id}@example.com");
                    let query = sqlx::query_as(UPSERT).bind(-id).bind(&email).bind(&email).bind("小明").bind("zh-TW").bind(round);
                    let (id,): (i64,) = query.fetch_one(&mut *tx).await?;
                    sum += id;
                }
                tx.commit().await?;
                Ok(sum)
            }

            pub async fn append(pool: &$pool, count: i64) -> Result<u64, sqlx::Error> {
                let mut tx = pool.begin().await?;
                let mut touched = 0;
                for seq in 1..=count {
                    let none: Option<&str> = None;
                    let query = sqlx::query(APPEND).bind(seq).bind(1_i64).bind(seq).bind(7_i64).bind("granted").bind("shop checkout");
                    let query = query.bind(Some(seq)).bind(none).bind(none).bind(vec![7_u8; 32]);
                    touched += query.execute(&mut *tx).await?.rows_affected();
                }
                tx.rollback().await?;
                Ok(touched)
            }

            pub async fn claim(pool: &$pool, limit: i64, times: usize) -> Result<i64, sqlx::Error> {
                let mut tx = pool.begin().await?;
                let mut sum = 0;
                for _ in 0..times {
                    let query = sqlx::query_as(CLAIM_SQL).bind(9_i64).bind(10_i64).bind(1_i64).bind(limit);
                    let rows: Vec<(i64, i64, i64, String, Option<String>)> = query.fetch_all(&mut *tx).await?;
                    for (id, contact, attempts, state, reason) in rows {
                        sum += id + contact + attempts + state.len() as i64 + reason.map_or(0, |reason| reason.len() as i64);
                    }
                }
                tx.rollback().await?;
                Ok(sum)
            }

            pub async fn count(pool: &$pool) -> Result<i64, sqlx::Error> {
                sqlx::query_scalar(COUNT).bind("zh-TW").bind(1_i64).fetch_one(pool).await
            }

            pub async fn report(pool: &$pool) -> Result<Vec<(String, Option<String>, i64, i64)>, sqlx::Error> {
                sqlx::query_as(REPORT).bind(1_i64).fetch_all(pool).await
            }
        }
    };
}

statements!(sqlite, sqlx::SqlitePool);
statements!(postgres, sqlx::PgPool);
