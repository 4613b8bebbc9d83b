//! The audit log as evidence, against those whom it is about.

use std::time::Duration;

use portcullis_cli::Exit;
use portcullis_proto::v1;
use tonic::Code;

use crate::api::unlock_rig::{PATIENCE, Unlocks, game};
use crate::command::run;

/// Every entry, oldest first, by the pages of a list.
pub async fn entries(u: &mut Unlocks) -> Vec<v1::AuditEntry> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let request = v1::ListAuditRequest {
            after,
            page_size: 1000,
            ..Default::default()
        };
        let page = u.audit.list_audit(request).await.unwrap().into_inner();
        all.extend(page.entries);
        after = page.next_after;
        if after == 0 {
            return all;
        }
    }
}

/// Every entry, by an export.
async fn exported(u: &mut Unlocks) -> Vec<v1::AuditEntry> {
    let mut stream = u
        .audit
        .export_audit(v1::ExportAuditRequest { after: 0 })
        .await
        .unwrap()
        .into_inner();
    let mut all = Vec::new();
    while let Some(entry) = stream.message().await.unwrap() {
        all.push(entry);
    }
    all
}

/// Waits for entries of an action.
pub async fn noted(u: &mut Unlocks, action: &str, least: usize) -> Vec<v1::AuditEntry> {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let all = entries(u).await;
        let found: Vec<_> = all.into_iter().filter(|e| e.action == action).collect();
        if found.len() >= least {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "{action}: {found:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn short(entry: &v1::AuditEntry) {
    for word in [&entry.actor, &entry.role, &entry.action, &entry.subject] {
        assert!(word.len() <= 256, "{} bytes: {}", word.len(), entry.number);
    }
    assert!(
        entry.detail.len() <= 4096,
        "{} bytes: {}",
        entry.detail.len(),
        entry.number
    );
    let read: Result<serde_json::Value, _> = serde_json::from_str(&entry.detail);
    assert!(read.is_ok() || entry.cut, "{}", entry.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refused_call_writes_much_into_the_log() {
    // What a tenant may send at most is no help here.
    let mut u = Unlocks::with("[limits]\ntenant_message_kib = 1024\n").await;
    let before = entries(&mut u).await.len();
    let database = u.rig.folder.path().join("p.db");
    let size = || {
        let file = rusqlite::Connection::open(&database).unwrap();
        let query =
            "SELECT max(length(CAST(actor || role || action || subject || detail AS BLOB))) FROM audit";
        file.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let mut tenant = u.as_caller("tenant");
    // As much as one message of the tests holds, of characters that take six bytes each when they are escaped.
    for long in [
        "a".repeat(900_000),
        "\u{1}".repeat(900_000),
        "ä\u{202e}".repeat(150_000),
    ] {
        let request = v1::RequestUnlockRequest {
            endpoint: long.clone(),
            ..game("mail1")
        };
        let refused = tenant.request_unlock(request).await.unwrap_err();
        assert!(refused.message().len() < 5000, "{}", refused.message().len());
        let program = v1::RequestUnlockRequest {
            program: long.clone(),
            ..game("mail1")
        };
        tenant.request_unlock(program).await.unwrap_err();
        let evidence = v1::RequestUnlockRequest {
            evidence: [(long.clone(), "x".to_string())].into(),
            ..game("mail1")
        };
        let refused = tenant.request_unlock(evidence).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::InvalidArgument,
            "{}",
            refused.message().len()
        );
        tenant
            .release(v1::UnlockRequest { id: long.clone() })
            .await
            .unwrap_err();
        let describe = v1::DescribeProgramRequest {
            program: long.clone(),
        };
        tenant.describe_program(describe).await.unwrap_err();
        let other = v1::ListUnlocksRequest {
            tenant: long,
            ..Default::default()
        };
        tenant.list_unlocks(other).await.unwrap_err();
    }
    let refused = noted(&mut u, "unlock.request.refused", 9).await;
    assert!(
        refused
            .iter()
            .all(|entry| !entry.subject.contains('a') || entry.subject.len() < 256)
    );
    let all = exported(&mut u).await;
    assert!(all.len() > before);
    all.iter().for_each(short);
    assert!(all.iter().all(|entry| !entry.cut));
    assert!(size() < 6000, "{} bytes in one entry", size());
    let verdict = u
        .audit
        .verify_audit(v1::VerifyAuditRequest::default())
        .await
        .unwrap();
    assert!(verdict.into_inner().intact);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_entry_that_is_huge_or_damaged_hides_no_other() {
    let mut u = Unlocks::new().await;
    let file = rusqlite::Connection::open(u.rig.folder.path().join("p.db")).unwrap();
    let last = entries(&mut u).await.len() as i64;
    // What an earlier version wrote, and what nobody writes.
    let insert = "INSERT INTO audit VALUES (?1, 0, ?2, 'tenant', 'unlock.request.refused', ?3, ?4, 1, ?5)";
    let huge = "\u{1b}[2Jä".repeat(2_000_000);
    for number in 1..=3 {
        let values = rusqlite::params![last + number, "x", huge, huge, [7u8; 32].as_slice()];
        file.execute(insert, values).unwrap();
    }
    file.execute(
        "INSERT INTO audit VALUES (?1, 0, CAST(x'ff00fe' AS TEXT), 'a', 'b', 'c', 'd', 1, x'00')",
        [last + 4],
    )
    .unwrap();
    let wanted: Vec<u64> = (1..=u64::try_from(last + 4).unwrap()).collect();
    for all in [entries(&mut u).await, exported(&mut u).await] {
        assert_eq!(all.iter().map(|e| e.number).collect::<Vec<_>>(), wanted);
        all.iter().for_each(short);
        let cut: Vec<u64> = all.iter().filter(|e| e.cut).map(|e| e.number).collect();
        assert_eq!(cut, wanted[wanted.len() - 4..]);
    }
    // Pages of large entries end before they are too large for an answer.
    drop(file);
    let socket = u.rig.folder.path().join("agent.sock");
    let export = run(&socket, &["audit", "export"]).await;
    assert_eq!(export.exit, Exit::Done.code(), "{}", export.err);
    assert_eq!(export.out.lines().count(), wanted.len());
    let list = run(&socket, &["audit", "list", "--limit", "100000"]).await;
    assert_eq!(list.exit, Exit::Done.code(), "{}", list.err);
    for text in [&export.out, &list.out] {
        assert!(!text.contains(|c: char| portcullis_policy::text::steers(c) && c != '\n'));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_tenant_writes_steers_an_operators_terminal() {
    let mut u = Unlocks::new().await;
    let evil = "\u{1b}]0;owned\u{7} \u{9b}31m \u{202e}drowssap\u{2066} \r\nmail9  active";
    let mut tenant = u.as_caller("tenant");
    let mut request = v1::RequestUnlockRequest {
        evidence: crate::api::unlock_rig::GOOD
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        program: "smtp".to_string(),
        endpoint: "mail1".to_string(),
        ..Default::default()
    };
    // Evidence is refused with controls, and may turn text around.
    let turned = "mail \u{202e}drowssap\u{2066} \u{2028}mail9  active";
    request.evidence.insert("purpose".to_string(), turned.to_string());
    let unlock = tenant.request_unlock(request.clone()).await.unwrap().into_inner();
    request.evidence.insert(evil.to_string(), evil.to_string());
    tenant.request_unlock(request).await.unwrap_err();
    noted(&mut u, "unlock.request.refused", 1).await;
    let socket = u.rig.folder.path().join("agent.sock");
    for command in ["audit list", "audit export", "unlock list", "unlock show ID"] {
        for form in ["table", "json", "yaml"] {
            let command = command.replace("ID", &unlock.id);
            let mut words: Vec<&str> = command.split(' ').collect();
            words.extend(["-o", form]);
            let ran = run(&socket, &words).await;
            assert_eq!(ran.exit, Exit::Done.code(), "{words:?}: {ran:?}");
            for text in [&ran.out, &ran.err] {
                assert!(
                    !text.contains(|c: char| portcullis_policy::text::steers(c) && c != '\n'),
                    "{words:?}: {text:?}"
                );
                assert!(
                    form != "table" || !text.lines().any(|line| line.starts_with("mail9")),
                    "{text}"
                );
            }
            // What the forms mean is what was written.
            if words[0] == "unlock" && words[1] == "show" && form != "table" {
                let read: serde_json::Value = match form {
                    "json" => serde_json::from_str(&ran.out).unwrap(),
                    _ => serde_saphyr::from_str(&ran.out).unwrap(),
                };
                assert_eq!(read["evidence"]["purpose"], turned);
            }
        }
    }
    // Errors, too: what the agent says repeats what it was sent.
    let ran = run(&socket, &["get", "endpoints", "\u{1b}[2J\u{202e}x"]).await;
    assert_eq!(ran.exit, Exit::Failed.code());
    assert!(
        !ran.err
            .contains(|c: char| portcullis_policy::text::steers(c) && c != '\n'),
        "{ran:?}"
    );
}

/// Takes away the triggers that keep the agent itself from changing the log.
pub fn unlocked(u: &Unlocks) -> rusqlite::Connection {
    let file = rusqlite::Connection::open(u.rig.folder.path().join("p.db")).unwrap();
    file.execute_batch("DROP TRIGGER IF EXISTS audit_keeps_all; DROP TRIGGER IF EXISTS audit_is_append_only")
        .unwrap();
    file
}

pub async fn verdict(u: &mut Unlocks, expected: &str) -> v1::VerifyAuditResponse {
    let request = v1::VerifyAuditRequest {
        expected: expected.to_string(),
    };
    u.audit.verify_audit(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn newest_entries_cut_off_while_the_agent_is_stopped_are_noticed() {
    let mut u = Unlocks::new().await;
    for _ in 0..3 {
        u.api.request_unlock(game("mail1")).await.unwrap();
    }
    u.restart().await;
    let whole = verdict(&mut u, "").await;
    assert!(whole.intact, "{whole:?}");
    assert_eq!(crate::api::closing::store(&mut u).await.audit_problem, "");
    let kept = format!("{}:{}", whole.entries, whole.head);

    u.rig.agent.take().unwrap().stop().await.unwrap();
    let end = {
        let file = unlocked(&u);
        let end: i64 = file
            .query_row("SELECT max(number) FROM audit", [], |row| row.get(0))
            .unwrap();
        file.execute("DELETE FROM audit WHERE number > ?1", [end - 2])
            .unwrap();
        u64::try_from(end).unwrap()
    };
    // It is said at once, and at every start until somebody takes the log as it is.
    for _ in 0..2 {
        u.begin().await;
        let problem = crate::api::closing::store(&mut u).await.audit_problem;
        assert!(problem.contains("the log"), "{problem}");
        let told = noted(&mut u, "audit.truncated", 1).await;
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(
            told[0].detail.contains(&format!("entry {end} was written")),
            "{told:?}"
        );
        let now = verdict(&mut u, "").await;
        assert!(!now.intact && now.broken_at > 0, "{now:?}");
        assert!(!verdict(&mut u, &kept).await.intact);
        u.api.request_unlock(game("mail1")).await.unwrap();
        u.rig.agent.take().unwrap().stop().await.unwrap();
    }
    let database = u.rig.folder.path().join("p.db");
    let ran =
        crate::command::run_offline(&["database", "accept", "--database", database.to_str().unwrap()]).await;
    assert!(
        ran.exit == Exit::Done.code() && ran.out.contains("taken as it is"),
        "{ran:?}"
    );
    u.begin().await;
    assert_eq!(crate::api::closing::store(&mut u).await.audit_problem, "");
    assert!(verdict(&mut u, "").await.intact);
    assert_eq!(noted(&mut u, "audit.accept", 1).await.len(), 1);
    // Who kept the head sees it all the same.
    assert!(!verdict(&mut u, &kept).await.intact);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_written_anew_is_not_the_one_that_was_kept() {
    let mut u = Unlocks::new().await;
    for _ in 0..3 {
        u.api.request_unlock(game("mail1")).await.unwrap();
    }
    let whole = verdict(&mut u, "").await;
    let kept = format!("{}:{}", whole.entries, whole.head);
    u.api.request_unlock(game("mail1")).await.unwrap();
    let socket = u.rig.folder.path().join("agent.sock");
    let good = run(&socket, &["audit", "verify", "--expect", &kept]).await;
    assert_eq!(good.exit, Exit::Done.code(), "{good:?}");
    let other = format!("{}:{}", whole.entries, "0".repeat(64));
    let bad = run(&socket, &["audit", "verify", "--expect", &other]).await;
    assert!(
        bad.exit == Exit::Failed.code() && bad.out.contains("not the one that was expected"),
        "{bad:?}"
    );
    let later = format!("{}:{}", whole.entries + 100, "0".repeat(64));
    assert_eq!(
        run(&socket, &["audit", "verify", "--expect", &later]).await.exit,
        Exit::Failed.code()
    );
    let wrong = v1::VerifyAuditRequest {
        expected: "7:xyz".to_string(),
    };
    let wrong = u.audit.verify_audit(wrong).await.unwrap_err();
    assert_eq!(crate::api::support::fields(&wrong), ["expected"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_are_nobody_write_little() {
    let mut u = Unlocks::new().await;
    let mut nobody = u.as_caller("stranger");
    for _ in 0..300 {
        let refused = nobody.request_unlock(game("mail1")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    // One as it came, and perhaps another of a minute that began meanwhile.
    noted(&mut u, "access.denied", 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let told = noted(&mut u, "access.denied", 1).await;
    assert!(told.len() <= 4, "{}", told.len());
    // The rest is one entry, when the minute is over.
    let end = tokio::time::Instant::now() + Duration::from_secs(90);
    loop {
        let told = noted(&mut u, "access.denied", 1).await;
        let count = |entry: &v1::AuditEntry| {
            let detail: serde_json::Value = serde_json::from_str(&entry.detail).unwrap();
            detail["count"].as_u64().unwrap() + detail["missed"].as_u64().unwrap()
        };
        let sum: u64 = told.iter().map(count).sum();
        if sum == 300 {
            assert!(told.len() <= 4, "{told:#?}");
            assert!(told.iter().any(|entry| entry.actor == "127.0.0.1"), "{told:#?}");
            return;
        }
        assert!(tokio::time::Instant::now() < end, "{sum}: {told:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_calls_are_refused_writes_little() {
    let mut u = Unlocks::with("[limits]\nqueued_changes = 256\n").await;
    let mut tenant = u.as_caller("tenant");
    let asked = tenant.request_unlock(game("mail1")).await.unwrap().into_inner();
    let own = v1::UnlockRequest { id: asked.id };
    tenant.release(own.clone()).await.unwrap();
    // Its own, which has ended, and a program that is none.
    for _ in 0..50 {
        tenant.release(own.clone()).await.unwrap_err();
        let wrong = v1::RequestUnlockRequest {
            program: "no program".to_string(),
            ..game("mail1")
        };
        tenant.request_unlock(wrong).await.unwrap_err();
    }
    // What is only counted is stored at the latest when the agent stops.
    u.restart().await;
    let told = noted(&mut u, "unlock.release.refused", 1).await;
    let told = [told, noted(&mut u, "unlock.request.refused", 1).await].concat();
    assert!((2..=42).contains(&told.len()), "{}", told.len());
    let count = |entry: &v1::AuditEntry| {
        let detail: serde_json::Value = serde_json::from_str(&entry.detail).unwrap();
        assert!(detail["why"].is_string(), "{entry:?}");
        detail["count"].as_u64().unwrap_or(1)
    };
    assert_eq!(told.iter().map(count).sum::<u64>(), 100, "{told:#?}");
    assert!(verdict(&mut u, "").await.intact);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_entries_go_to_files_and_the_chain_goes_on() {
    let mut u = Unlocks::with("[audit]\nentries = 100\n[limits]\nqueued_changes = 256\n").await;
    for _ in 0..100 {
        u.api.request_unlock(game("mail1")).await.unwrap();
    }
    let archived = noted(&mut u, "audit.archive", 1).await;
    let now = verdict(&mut u, "").await;
    assert!(now.intact && now.archived >= 25 && now.entries <= 130, "{now:?}");
    let detail: serde_json::Value = serde_json::from_str(&archived[0].detail).unwrap();
    let file = std::path::PathBuf::from(detail["file"].as_str().unwrap());
    let bytes = std::fs::read(&file).unwrap();
    use sha2::Digest;
    let digest: String = sha2::Sha256::digest(&bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(detail["sha256"], digest);
    let lines: Vec<serde_json::Value> = String::from_utf8(bytes)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = lines.last().unwrap();
    assert_eq!(
        detail["head"],
        format!("{}:{}", last["number"], last["hash"].as_str().unwrap())
    );
    // What is left follows it, and still does after a restart.
    let first = &entries(&mut u).await[0];
    let files = std::fs::read_dir(u.rig.folder.path()).unwrap();
    let files = files.filter(|f| {
        f.as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .ends_with(".jsonl")
    });
    // Another may have been made since.
    let (archived, files) = (first.number - 1, files.count() as u64);
    assert!(archived % 25 == 0 && archived <= 25 * files && archived + 50 >= 25 * files);
    archives_are_verified(&u, &file).await;
    u.restart().await;
    assert!(verdict(&mut u, "").await.intact);
    assert_eq!(crate::api::closing::store(&mut u).await.audit_problem, "");
    // A log that begins later, and says nothing of a file, is not the one that was written.
    let unlocked = unlocked(&u);
    let shown = entries(&mut u).await;
    let cut = &shown[3];
    unlocked
        .execute(
            "DELETE FROM audit WHERE number <= ?1",
            [i64::try_from(cut.number).unwrap()],
        )
        .unwrap();
    let base = format!("{}:{}", cut.number, cut.hash);
    unlocked
        .execute("UPDATE texts SET value = ?1 WHERE name = 'audit_base'", [base])
        .unwrap();
    let now = verdict(&mut u, "").await;
    assert!(!now.intact && now.broken_at == cut.number + 1, "{now:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_little_room_nothing_is_opened_and_everything_closes() {
    let mut u = Unlocks::new().await;
    let long = v1::RequestUnlockRequest {
        lease_seconds: 360_000,
        ..game("mail1")
    };
    let unlock = u.api.request_unlock(long.clone()).await.unwrap().into_inner();
    u.until(&unlock.id, &[v1::UnlockState::Active]).await;
    u.until_passes("mail1", 465, true).await;
    // More than any disk has.
    u.rig.more.push_str("[audit]\nfree_disk_mib = 1000000000\n");
    u.restart().await;
    let refused = u.api.request_unlock(long).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("free_disk_mib"), "{refused:?}");
    let line = crate::api::unlock_rig::with(&u.channel, "provisioner");
    let mut provisioner = v1::endpoint_service_client::EndpointServiceClient::new(line);
    let request = v1::ProvisionRequest {
        endpoint: Some(crate::api::support::endpoint("new", 9)),
    };
    assert_eq!(
        provisioner.provision(request).await.unwrap_err().code(),
        Code::ResourceExhausted
    );
    // What is refused writes nothing.
    let before = entries(&mut u).await.len();
    let mut tenant = u.as_caller("tenant");
    for _ in 0..50 {
        tenant.request_unlock(game("web1")).await.unwrap_err();
    }
    assert_eq!(entries(&mut u).await.len(), before);
    u.api
        .revoke(v1::DecideUnlockRequest {
            id: unlock.id.clone(),
            reason: "spam".to_string(),
            quarantine: false,
        })
        .await
        .unwrap();
    u.until_passes("mail1", 465, false).await;
    provisioner
        .release(v1::ReleaseRequest {
            name: "web1".to_string(),
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_come_into_no_check_and_no_digest_can_be_tried() {
    let mut u = Unlocks::new().await;
    // What a check finds is shown: it may not ask about a secret.
    let secret = |line: &str| line.replace("type: hostname}", "type: hostname, secret: true}");
    let refused = u
        .apply(&secret(crate::api::unlock_rig::PROGRAMS))
        .await
        .unwrap_err();
    let wrong = crate::api::support::fields(&refused);
    assert!(
        wrong.contains(&"programs.smtp.checks[0].hostname".to_string()),
        "{wrong:?}"
    );
    assert!(
        wrong.contains(&"programs.smtp.checks[1].domain".to_string()),
        "{wrong:?}"
    );
    let narrowed = crate::api::unlock_rig::PROGRAMS.replace(
        "  game:\n    opens: [{direction: egress, protocol: tcp, ports: [465]}]",
        "  game:\n    evidence: [{name: port, type: integer, secret: true}]\n    opens: [{direction: egress, protocol: tcp, ports: \
         [465], ports_from: port}]",
    );
    let wrong = crate::api::support::fields(&u.apply(&narrowed).await.unwrap_err());
    assert_eq!(wrong, ["programs.game.opens[0].ports_from"]);
    // Equal evidence has one digest in a log, and another in the log of another agent.
    let mut other = Unlocks::new().await;
    let mut digests = Vec::new();
    for u in [&mut u, &mut other] {
        for _ in 0..2 {
            u.api.request_unlock(game("mail1")).await.unwrap();
        }
        let told = noted(u, "unlock.activate", 2).await;
        for entry in told {
            let detail: serde_json::Value = serde_json::from_str(&entry.detail).unwrap();
            digests.push(detail["evidence_sha256"].as_str().unwrap().to_string());
        }
    }
    assert_eq!(digests[0].len(), 64);
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[2], digests[3]);
    assert_ne!(digests[0], digests[2]);
}

/// The command verifies an archive, and finds a byte that was changed.
async fn archives_are_verified(u: &Unlocks, file: &std::path::Path) {
    let socket = u.rig.folder.path().join("agent.sock");
    let verify = async |file: &std::path::Path| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .arg("--socket")
            .arg(&socket)
            .args(["audit", "verify", "--archive"])
            .arg(file);
        let output = command.output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = verify(file).await;
    assert!(
        code == Some(0) && text.contains("intact: entries 1 to 25 in"),
        "{text}"
    );
    let spoiled = u.rig.folder.path().join("spoiled.jsonl");
    let whole = std::fs::read_to_string(file).unwrap();
    let third = whole.lines().nth(2).unwrap();
    std::fs::write(
        &spoiled,
        whole.replace(third, &third.replace("\"role\":\"", "\"role\":\"x")),
    )
    .unwrap();
    let (code, text) = verify(&spoiled).await;
    assert!(code == Some(1) && text.contains("BROKEN at entry 3 in"), "{text}");
}
