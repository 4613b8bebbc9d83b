//! Requests that are repeated, programs that are refused, the audit log, watchers, and the command.

use std::collections::HashMap;

use portcullis_cli::Exit;
use portcullis_proto::v1;
use portcullis_proto::v1::audit_service_client::AuditServiceClient;
use tonic::Code;
use tonic_types::StatusExt;

use crate::api::support::*;
use crate::api::unlock_rig::{GOOD, Line, PATIENCE, PROGRAMS, Unlocks, game};
use crate::command::run;

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_made_once() {
    let mut u = Unlocks::new().await;
    let request = v1::RequestUnlockRequest {
        idempotency_key: "order-1".to_string(),
        lease_seconds: 3600,
        ..game("mail1")
    };
    let first = u.api.request_unlock(request.clone()).await.unwrap().into_inner();
    let second = u.api.request_unlock(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.id, second.id);
    // At the same time, and after a restart.
    let mut same = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (mut api, request) = (u.api.clone(), request.clone());
        same.spawn(async move { api.request_unlock(request).await });
    }
    while let Some(answer) = same.join_next().await {
        match answer.unwrap() {
            Ok(answer) => assert_eq!(answer.into_inner().id, first.id),
            // Four at a time are what the agent of the tests lets wait.
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}"),
        }
    }
    u.restart().await;
    assert_eq!(
        u.api
            .request_unlock(request.clone())
            .await
            .unwrap()
            .into_inner()
            .id,
        first.id
    );
    let other = v1::RequestUnlockRequest {
        lease_seconds: 7200,
        ..request.clone()
    };
    assert_eq!(
        fields(&u.api.request_unlock(other).await.unwrap_err()),
        ["idempotency_key"]
    );
    // Another caller's key is another key.
    let answer = u
        .as_caller("tenant")
        .request_unlock(request)
        .await
        .unwrap()
        .into_inner();
    assert_ne!(answer.id, first.id);
    let count = u
        .api
        .list_unlocks(v1::ListUnlocksRequest::default())
        .await
        .unwrap()
        .into_inner()
        .unlocks
        .len();
    assert_eq!(count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_programs_are_refused_with_their_place() {
    let mut u = Unlocks::new().await;
    let before = u.rig.fake.intents.lock().unwrap().len();
    let with_require = |text: &str| PROGRAMS.replace("evidence.volume_per_day < 5000", text);
    for (text, path, says) in [
        (
            with_require("evidence.volumme < 5"),
            "programs.smtp.require",
            "column 52",
        ),
        (
            with_require("evidence.volume_per_day <"),
            "programs.smtp.require",
            "column",
        ),
        (
            with_require(r#"evidence.purpose.matches("(a{1000}){1000}")"#),
            "programs.smtp.require",
            "",
        ),
        (
            PROGRAMS.replace("address: endpoint", "address: nothing"),
            "programs.smtp.checks[0].address",
            "no evidence",
        ),
        (
            PROGRAMS.replace("lease: {default: 2s,", "lease: {default: 200h,"),
            "programs.game.lease.max",
            "below default",
        ),
        (
            PROGRAMS.replace("min_length: 10", "pattern: '(a{1000}){1000}'"),
            "programs.smtp.evidence[0].pattern",
            "",
        ),
    ] {
        let refused = u.apply(&text).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{path}: {refused:?}");
        let details = refused.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        let found = violations.iter().find(|v| v.field == path);
        let found = found.unwrap_or_else(|| panic!("{path}: {violations:#?}"));
        assert!(found.description.contains(says), "{}", found.description);
    }
    assert_eq!(
        u.rig.fake.intents.lock().unwrap().len(),
        before,
        "nothing was changed"
    );
    // Removing a program or an endpoint ends its unlocks.
    let long = v1::RequestUnlockRequest {
        lease_seconds: 3600,
        ..game("mail1")
    };
    let unlock = u.api.request_unlock(long).await.unwrap().into_inner();
    u.until(&unlock.id, &[v1::UnlockState::Active]).await;
    let without = PROGRAMS.split("  game:").next().unwrap();
    u.apply(without).await.unwrap();
    let ended = u.get(&unlock.id).await;
    assert_eq!(
        (ended.state(), ended.reason.as_str()),
        (v1::UnlockState::Revoked, "the program is gone")
    );
    u.until_passes("mail1", 465, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_changed_in_history_is_found() {
    let mut u = Unlocks::new().await;
    for _ in 0..3 {
        u.api.request_unlock(game("mail1")).await.unwrap();
    }
    let verify = |mut audit: AuditServiceClient<Line>| async move {
        audit
            .verify_audit(v1::VerifyAuditRequest::default())
            .await
            .unwrap()
            .into_inner()
    };
    let verdict = verify(u.audit.clone()).await;
    assert!(verdict.intact && verdict.entries >= 4, "{verdict:?}");
    let file = rusqlite::Connection::open(u.rig.folder.path().join("p.db")).unwrap();
    // The database itself does not let it happen by mistake.
    assert!(
        file.execute("UPDATE audit SET actor = 'x' WHERE number = 2", [])
            .is_err()
    );
    assert!(file.execute("DELETE FROM audit", []).is_err());
    file.execute_batch("DROP TRIGGER audit_is_append_only; DROP TRIGGER audit_keeps_all")
        .unwrap();
    let columns = ["actor", "role", "action", "subject", "detail"];
    for (n, column) in columns.iter().enumerate() {
        let was: String = file
            .query_row(
                &format!("SELECT {column} FROM audit WHERE number = 3"),
                [],
                |row| row.get(0),
            )
            .unwrap();
        let set = format!("UPDATE audit SET {column} = ?1 WHERE number = 3");
        // One byte more, and one that is another.
        let mut another = was.clone().into_bytes();
        *another.last_mut().unwrap() ^= 1;
        for changed in [format!("{was}{n}"), String::from_utf8(another).unwrap()] {
            file.execute(&set, [changed]).unwrap();
            let verdict = verify(u.audit.clone()).await;
            assert_eq!((verdict.intact, verdict.broken_at), (false, 3), "{column}");
        }
        file.execute(&set, [was]).unwrap();
    }
    file.execute_batch("UPDATE audit SET at = at + 1 WHERE number = 2")
        .unwrap();
    let verdict = verify(u.audit.clone()).await;
    assert_eq!((verdict.intact, verdict.broken_at), (false, 2));
    file.execute_batch("UPDATE audit SET at = at - 1 WHERE number = 2")
        .unwrap();
    assert!(verify(u.audit.clone()).await.intact);
    let last: u64 = verify(u.audit.clone()).await.entries;
    file.execute(
        "DELETE FROM audit WHERE number = ?1",
        [i64::try_from(last).unwrap()],
    )
    .unwrap();
    let verdict = verify(u.audit.clone()).await;
    assert_eq!(
        (verdict.intact, verdict.broken_at),
        (false, last),
        "the newest entry is missing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_every_state() {
    let mut u = Unlocks::new().await;
    let mut mine = u
        .as_caller("tenant")
        .watch_unlocks(v1::WatchUnlocksRequest::default())
        .await
        .unwrap()
        .into_inner();
    u.api.request_unlock(game("web1")).await.unwrap();
    let unlock = u.api.request_unlock(game("mail1")).await.unwrap().into_inner();
    let mut seen: Vec<v1::UnlockState> = Vec::new();
    let mut evidence: HashMap<String, usize> = HashMap::new();
    while seen.last() != Some(&v1::UnlockState::Expired) {
        let event = tokio::time::timeout(PATIENCE, mine.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let event = event.unlock.unwrap();
        assert_eq!(event.id, unlock.id, "another tenant's");
        *evidence.entry(event.id.clone()).or_default() += 1;
        if seen.last() != Some(&event.state()) {
            seen.push(event.state());
        }
    }
    assert_eq!(seen.first(), Some(&v1::UnlockState::Checking));
    assert!(seen.contains(&v1::UnlockState::Active), "{seen:?}");
    assert!(evidence[&unlock.id] >= 3);
}

/// A word of a table or of facts.
fn fact(text: &str, name: &str) -> String {
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_else(|| panic!("{name}: {text}"));
    line.trim_start_matches(name).trim().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_asks_decides_and_reads_the_log() {
    let u = Unlocks::new().await;
    let socket = u.rig.folder.path().join("agent.sock");
    let ask = |words: Vec<String>| {
        let socket = socket.clone();
        async move {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            run(&socket, &words).await
        }
    };
    let words = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();

    let why = ask(words("unlock why mail1 egress tcp/25")).await;
    assert!(
        why.out.contains("blocked by baseline/smtp: against spam") && why.out.contains("volume_per_day"),
        "{why:?}"
    );
    let programs = ask(words("unlock programs")).await;
    assert!(
        programs.out.contains("Outbound mail") && programs.out.contains("game"),
        "{programs:?}"
    );

    let refused = ask(words(
        "unlock request --program smtp --endpoint mail1 --no-input --set volume_per_day=0",
    ))
    .await;
    assert_eq!(refused.exit, Exit::Failed.code());
    for field in [
        "evidence.purpose",
        "evidence.hostname",
        "evidence.volume_per_day",
        "evidence.consent",
    ] {
        assert!(refused.err.contains(field), "{field}: {refused:?}");
    }
    let unknown = ask(words("unlock request --program irc --endpoint mail1 --no-input")).await;
    assert!(
        unknown.exit == Exit::Failed.code() && unknown.err.contains("irc"),
        "{unknown:?}"
    );

    u.good_dns();
    let secret = u.rig.folder.path().join("secret");
    std::fs::write(&secret, "hunter2\n").unwrap();
    let mut request = words("unlock request --program smtp --endpoint mail1 --wait");
    for (name, value) in GOOD
        .iter()
        .filter(|(name, _)| *name != "contact" && *name != "volume_per_day")
    {
        request.extend(["--set".to_string(), format!("{name}={value}")]);
    }
    request.extend(words("--set volume_per_day=2000 --lease 24h"));
    request.extend(["--set-file".to_string(), format!("contact={}", secret.display())]);
    let asked = ask(request).await;
    assert_eq!(asked.exit, Exit::Done.code(), "{asked:?}");
    assert_eq!(fact(&asked.out, "state"), "awaiting approval");
    assert!(!asked.out.contains("hunter2"), "a secret is shown: {asked:?}");
    let id = fact(&asked.out, "id");
    let waiting = ask(words("unlock list --state awaiting-approval")).await;
    assert!(
        waiting.out.contains(&id) && waiting.out.contains("mail1"),
        "{waiting:?}"
    );
    let rejected = ask(words(&format!("unlock reject {id}"))).await;
    assert!(
        rejected.exit == Exit::Failed.code() && rejected.err.contains("reason"),
        "{rejected:?}"
    );
    let approved = ask(words(&format!("unlock approve {id} --reason known"))).await;
    assert_eq!(fact(&approved.out, "state"), "active");
    u.until_passes("mail1", 25, true).await;
    let renewed = ask(words(&format!("unlock renew {id} --lease 9000h"))).await;
    assert!(
        renewed.exit == Exit::Failed.code() && renewed.err.contains("lease_seconds"),
        "{renewed:?}"
    );
    let renewed = ask(words(&format!("unlock renew {id} --lease 48h -o json"))).await;
    let json: serde_json::Value = serde_json::from_str(&renewed.out).unwrap();
    assert_eq!((&json["renewals"], &json["state"]), (&1.into(), &"active".into()));
    let revoked = ask(words(&format!(
        "unlock revoke {id} --reason complaints --quarantine"
    )))
    .await;
    assert_eq!(fact(&revoked.out, "state"), "revoked");
    assert!(!fact(&revoked.out, "quarantine").is_empty());
    let shown = ask(words(&format!("unlock show {id}"))).await;
    assert!(
        shown.out.contains("complaints") && shown.out.contains("fcrdns"),
        "{shown:?}"
    );

    let log = ask(words("audit list --action unlock.")).await;
    for what in [
        "unlock.request.refused",
        "unlock.await",
        "unlock.activate",
        "unlock.renew",
        "unlock.revoke",
        "uid 0",
    ] {
        assert!(log.out.contains(what), "{what}: {log:?}");
    }
    let verdict = ask(words("audit verify")).await;
    assert!(
        verdict.exit == Exit::Done.code() && verdict.out.starts_with("intact: "),
        "{verdict:?}"
    );
    let file = u.rig.folder.path().join("audit.jsonl");
    let export = ask(words(&format!("audit export -f {}", file.display()))).await;
    assert_eq!(export.exit, Exit::Done.code(), "{export:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    let numbers = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_u64());
    assert!(numbers.eq((1..=text.lines().count() as u64).map(Some)));
    assert!(!text.contains("hunter2"));
}
