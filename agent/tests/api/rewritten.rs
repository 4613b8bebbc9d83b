//! A newest entry of the audit log that is written anew, hash and all.

use sha2::{Digest, Sha256};

use crate::api::evidence::{noted, unlocked, verdict};
use crate::api::unlock_rig::{Unlocks, game};

/// The hash of an entry, as it is documented: over the hash before, the number, and every field behind its length.
fn chained(before: &[u8], number: i64, [at, generation]: [i64; 2], texts: &[String; 5]) -> Vec<u8> {
    let mut digest = Sha256::new();
    digest.update(b"portcullis audit 1\n");
    digest.update(before);
    for word in [number, at, generation] {
        digest.update(word.to_be_bytes());
    }
    for text in texts {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text.as_bytes());
    }
    digest.finalize().to_vec()
}

/// Replaces what the newest entry says, so that the chain is whole; its number.
fn rewritten(file: &rusqlite::Connection) -> i64 {
    let newest = "SELECT number, at, generation, actor, role, action, subject, detail, hash FROM audit \
                  ORDER BY number DESC LIMIT 1";
    let (number, times, mut texts, hash): (i64, [i64; 2], [String; 5], Vec<u8>) = file
        .query_row(newest, [], |row| {
            let mut texts: [String; 5] = Default::default();
            for (at, text) in texts.iter_mut().enumerate() {
                *text = row.get(3 + at)?;
            }
            let hash: Vec<u8> = row.get(8)?;
            Ok((row.get(0)?, [row.get(1)?, row.get(2)?], texts, hash))
        })
        .unwrap();
    let before: Vec<u8> = file
        .query_row("SELECT hash FROM audit WHERE number = ?1", [number - 1], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(chained(&before, number, times, &texts), hash);
    texts[0] = "somebody else".to_string();
    let hash = chained(&before, number, times, &texts);
    let changed = file.execute(
        "UPDATE audit SET actor = ?2, hash = ?3 WHERE number = ?1",
        rusqlite::params![number, texts[0], hash],
    );
    assert_eq!(changed.unwrap(), 1);
    number
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newest_entry_that_is_written_anew_while_the_agent_is_stopped_is_noticed() {
    let mut u = Unlocks::new().await;
    u.api.request_unlock(game("mail1")).await.unwrap();
    u.rig.agent.take().unwrap().stop().await.unwrap();
    let number = rewritten(&unlocked(&u));
    u.begin().await;
    let wanted = format!("entry {number} is not the one that was written");
    let problem = crate::api::closing::store(&mut u).await.audit_problem;
    assert!(problem.contains(&wanted), "{problem}");
    let told = noted(&mut u, "audit.truncated", 1).await;
    assert!(told[0].detail.contains(&wanted), "{told:?}");
    let now = verdict(&mut u, "").await;
    assert!(!now.intact && now.broken_at > 0, "{now:?}");
}
