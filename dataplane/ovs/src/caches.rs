//! Confirms that the datapath's flow cache follows a change.
//!
//! A confirmed flow table is what new flows meet. Flows that the datapath has cached are checked against it by
//! the revalidators, a moment later. "Realized" means both, so after a change the driver waits for
//! `revalidator/wait` (ovs-vswitchd(8)) on the daemon's control socket. That answers when the pass under way ends,
//! and that pass may have begun before the change: only the end of a second one proves that every cached flow was
//! checked. Passes are 500 ms apart when nothing happens, so the driver *nudges* the switch while it waits.
//!
//! Releases before 2.17.8, 3.0.5, 3.1.3 and 3.2.0 may update the wrong one of two overlapping cached flows in the
//! userspace datapath (`dpif_netdev_flow_put` found it by key, not by its id), and the right one keeps its old
//! verdict. There, a pass is followed by a `revalidator/purge`: every cached flow is forgotten and made anew. All but those
//! that a revalidator holds at that moment: their purge leaves them out (`revalidator_sweep__`, ofproto-dpif-upcall.c), and the
//! pass under way may still update a wrong one. So another pass and another purge follow.
//!
//! The kernel's datapath finds flows by their id, so nothing is purged there.
//!
//! Only an answer counts. Where no daemon can be asked, or it does not answer, it is *unknown* whether cached flows
//! follow a change: status says `confirmed`, never `applied`, and why. The question is asked again until it is answered.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use portcullis_ovsdb::Datapath;
use tokio::sync::mpsc;

use crate::unixctl::{Daemon, Where};

/// The longest a pass may take; OVS aims at 500 ms between passes (`max-revalidator`).
const PATIENCE: Duration = Duration::from_secs(15);

/// The switch knows of the waiting by then, if it is idle.
const FIRST_NUDGE: Duration = Duration::from_micros(300);
/// And then again, until it answers.
const NEXT_NUDGE: Duration = Duration::from_millis(5);

/// Waits for a pass of the revalidators to end.
const WAIT: &str = "revalidator/wait";
/// Forgets every cached flow that no revalidator holds.
const PURGE: &str = "revalidator/purge";

/// A question without an answer is asked again after this long, and then after twice as long each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// And this long at most.
const LAST_RETRY: Duration = Duration::from_secs(2);

/// What became of a request to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Time for a nudge: make the switch begin a pass.
    Nudge,
    /// Which daemon it is.
    Daemon {
        /// Its version, as it says.
        version: String,
        /// Whether its cached flows are forgotten after each change.
        purges: bool,
    },
    /// The caches follow what was written up to this request.
    Done(u64),
    /// It is not known whether they follow, and why. It is asked again.
    Unknown(String),
}

/// What the task is asked.
#[derive(Debug, Clone, Copy)]
struct Request {
    number: u64,
    /// Whether the bridge is one of the userspace datapath, which some releases have a fault in.
    userspace: bool,
}

/// What the datapath's caches are known to follow.
pub(crate) struct Caches {
    ask: mpsc::UnboundedSender<Request>,
    pub(crate) progress: mpsc::UnboundedReceiver<Progress>,
    /// Rows written when the last request was made; none: what was written before is not known.
    writes: Option<[u64; 3]>,
    /// Number of the last request.
    asked: u64,
    /// Whether the bridge is one of the userspace datapath.
    userspace: bool,
    /// Requests without an answer, and the newest generation whose rows were confirmed before each.
    open: VecDeque<(u64, u64)>,
    /// The newest generation they follow.
    follow: u64,
    problem: Option<String>,
}

impl Caches {
    pub(crate) fn start(place: Where) -> Self {
        let (ask, requests) = mpsc::unbounded_channel();
        let (report, progress) = mpsc::unbounded_channel();
        tokio::spawn(follow(place, requests, report));
        Caches {
            ask,
            progress,
            writes: None,
            asked: 0,
            userspace: true,
            open: VecDeque::new(),
            follow: 0,
            problem: None,
        }
    }

    /// Which datapath the bridge is on.
    pub(crate) fn set_datapath(&mut self, datapath: &Datapath) {
        let userspace = *datapath != Datapath::Kernel;
        if self.userspace != userspace {
            self.userspace = userspace;
            self.ask_again();
        }
    }

    /// Rows may have changed without a write of this process that was confirmed: a row ended by itself, an answer was
    /// lost, an earlier process wrote, the daemon restarted. Whether the caches follow anything is not known any more.
    pub(crate) fn ask_again(&mut self) {
        self.writes = None;
        self.follow = 0;
        self.open.clear();
    }

    /// The rows of a generation are confirmed, after these writes. Returns whether the caches are known to follow them.
    pub(crate) fn reached(&mut self, generation: u64, writes: [u64; 3]) -> bool {
        if self.writes != Some(writes) {
            self.writes = Some(writes);
            self.asked += 1;
            self.open.push_back((self.asked, generation));
            let request = Request {
                number: self.asked,
                userspace: self.userspace,
            };
            if self.ask.send(request).is_err() {
                self.problem =
                    Some("the task that asks ovs-vswitchd has ended; see the agent's log".to_string());
            }
        }
        match self.open.back_mut() {
            // The same rows.
            Some((_, newest)) => *newest = generation,
            None => self.follow = generation,
        }
        self.open.is_empty()
    }

    /// The caches follow what was written up to a request. Returns whether that ends a problem.
    pub(crate) fn done(&mut self, request: u64) -> bool {
        while let Some((_, generation)) = self.open.front().filter(|(asked, _)| *asked <= request) {
            self.follow = *generation;
            self.open.pop_front();
        }
        self.problem.take().is_some()
    }

    /// It is not known whether they follow. Returns whether that is news.
    pub(crate) fn unknown(&mut self, why: String) -> bool {
        let news = self.problem.as_ref() != Some(&why);
        self.problem = Some(why);
        news
    }

    /// The newest generation they are known to follow.
    pub(crate) fn follow(&self) -> u64 {
        self.follow
    }

    /// Why it is not known whether they follow.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

/// Whether a release has the fault described above. What cannot be read is taken for one that has it.
fn is_faulty(version: &str) -> bool {
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (2, 17, patch) => patch < 8,
        (3, 0, patch) => patch < 5,
        (3, 1, patch) => patch < 3,
        (major, _, _) => major < 3,
    }
}

/// A daemon that is asked about its cached flows.
struct Asked {
    daemon: Daemon,
    /// Whether the last request was about the userspace datapath; none before the first.
    userspace: Option<bool>,
}

impl Asked {
    /// Whether cached flows are purged after a change to a bridge, which is reported when it is known.
    fn purges(&mut self, userspace: bool, progress: &mpsc::UnboundedSender<Progress>) -> io::Result<bool> {
        let purges = userspace && is_faulty(&self.daemon.version);
        if self.userspace != Some(userspace) {
            self.userspace = Some(userspace);
            let version = self.daemon.version.clone();
            let daemon = Progress::Daemon { version, purges };
            progress.send(daemon).map_err(|_| stopping())?;
        }
        Ok(purges)
    }

    /// Waits for one pass to end, nudging until it does: a nudge that the switch handled before it knew of the
    /// waiting is lost.
    async fn wait(&mut self, progress: &mpsc::UnboundedSender<Progress>) -> io::Result<()> {
        self.daemon.ask(WAIT, &[]);
        let mut pause = FIRST_NUDGE;
        loop {
            tokio::select! {
                answered = self.daemon.answer() => return answered.map(drop),
                () = tokio::time::sleep(pause) => {
                    progress.send(Progress::Nudge).map_err(|_| stopping())?;
                    pause = NEXT_NUDGE;
                }
            }
        }
    }

    /// Two passes, each with a purge behind it where the release needs one.
    async fn settle(
        &mut self,
        userspace: bool,
        progress: &mpsc::UnboundedSender<Progress>,
    ) -> io::Result<()> {
        let purges = self.purges(userspace, progress)?;
        for _ in 0..2 {
            self.wait(progress).await?;
            if purges {
                self.daemon.call(PURGE, &[]).await?;
            }
        }
        Ok(())
    }
}

fn stopping() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the target is stopping")
}

/// Asks until there is an answer for each request; only the newest of those that queued up counts.
async fn follow(
    place: Where,
    mut requests: mpsc::UnboundedReceiver<Request>,
    progress: mpsc::UnboundedSender<Progress>,
) {
    let mut asked: Option<Asked> = None;
    while let Some(mut request) = requests.recv().await {
        let mut pause = FIRST_RETRY;
        let sent = loop {
            while let Ok(newer) = requests.try_recv() {
                request = newer;
            }
            match settle(&place, &mut asked, request.userspace, &progress).await {
                Ok(()) => break progress.send(Progress::Done(request.number)),
                Err(error) => {
                    let sent = progress.send(Progress::Unknown(error.to_string()));
                    if sent.is_err() {
                        break sent;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_RETRY);
                }
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Settles once, over the connection there is or a new one.
async fn settle(
    place: &Where,
    asked: &mut Option<Asked>,
    userspace: bool,
    progress: &mpsc::UnboundedSender<Progress>,
) -> io::Result<()> {
    let attempt = async {
        // The connection may be one to a daemon that has been restarted since.
        if let Some(mut known) = asked.take()
            && known.settle(userspace, progress).await.is_ok()
        {
            *asked = Some(known);
            return Ok(());
        }
        let mut fresh = Asked {
            daemon: Daemon::connect(place, WAIT).await?,
            userspace: None,
        };
        fresh.settle(userspace, progress).await?;
        *asked = Some(fresh);
        Ok(())
    };
    let late = || {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "ovs-vswitchd has not looked through its cached flows within {PATIENCE:?}: see its log; while \
                 other_config:flow-restore-wait is true it never does"
            ),
        )
    };
    tokio::time::timeout(PATIENCE, attempt)
        .await
        .map_err(|_| late())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_ovsdb::Framer;
    use std::path::Path;

    /// A daemon's control socket in memory: answers what it was made to, and `revalidator/wait` only when it may.
    async fn daemon(listener: tokio::net::UnixListener, commands: &'static str) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                return;
            };
            tokio::spawn(async move {
                let mut framer = Framer::default();
                let mut bytes = [0; 4096];
                loop {
                    let Ok(count @ 1..) = stream.read(&mut bytes).await else {
                        return;
                    };
                    framer.push(&bytes[..count]);
                    while let Ok(Some(asked)) = framer.next_value() {
                        let result = match asked["method"].as_str() {
                            Some("list-commands") => commands,
                            Some("version") => "ovs-vswitchd (Open vSwitch) 3.3.0",
                            _ => "",
                        };
                        let answer = serde_json::json!({"id": asked["id"], "result": result, "error": null});
                        if stream.write_all(answer.to_string().as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    }

    fn listen(path: &Path, commands: &'static str) -> tokio::task::JoinHandle<()> {
        tokio::spawn(daemon(tokio::net::UnixListener::bind(path).unwrap(), commands))
    }

    async fn next(caches: &mut Caches) -> Progress {
        loop {
            match caches.progress.recv().await.unwrap() {
                Progress::Nudge => {}
                progress => return progress,
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_never_followed_and_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = Where {
            folder: Some(folder.path().to_path_buf()),
            socket: None,
        };
        let mut caches = Caches::start(place);
        assert!(
            !caches.reached(7, [0; 3]),
            "rows of an earlier process are asked about, too"
        );
        // Another daemon's socket does not count.
        let _other = listen(&folder.path().join("ovsdb-server.1.ctl"), "version");
        let Progress::Unknown(why) = next(&mut caches).await else {
            panic!("there is nothing to ask")
        };
        assert!(why.contains("set `control_socket`"), "{why}");
        assert!(caches.unknown(why));
        for _ in 0..3 {
            let progress = next(&mut caches).await;
            assert!(matches!(progress, Progress::Unknown(_)), "{progress:?}");
            assert!(!caches.reached(7, [0; 3]));
            assert_eq!(caches.follow(), 0);
        }
        // Whatever its name is.
        let _daemon = listen(&folder.path().join("renamed.ctl"), "revalidator/wait");
        let request = loop {
            match next(&mut caches).await {
                Progress::Done(request) => break request,
                progress => assert!(!matches!(progress, Progress::Nudge)),
            }
        };
        assert!(caches.done(request));
        assert!(caches.reached(7, [0; 3]));
        assert_eq!(caches.follow(), 7);
        caches.ask_again();
        assert_eq!(caches.follow(), 0);
        assert!(!caches.reached(7, [0; 3]));
        assert_eq!(caches.follow(), 0);
    }

    /// Rows that no packet meets are deleted after a generation is in force.
    #[tokio::test]
    async fn a_generation_does_not_wait_for_the_deletions_after_it() {
        let mut caches = Caches::start(Where {
            folder: None,
            socket: None,
        });
        assert!(!caches.reached(7, [3, 1, 0]));
        assert!(!caches.reached(7, [3, 1, 900]));
        caches.done(1);
        assert_eq!(caches.follow(), 7);
        assert!(!caches.reached(8, [3, 1, 900]), "the second is not answered");
        assert_eq!(caches.follow(), 7);
        caches.done(2);
        assert_eq!(caches.follow(), 8);
        assert!(caches.reached(9, [3, 1, 900]), "the same rows");
        assert_eq!(caches.follow(), 9);
    }

    #[tokio::test]
    async fn without_a_place_to_ask_it_is_unknown() {
        let place = Where {
            folder: None,
            socket: None,
        };
        let mut caches = Caches::start(place);
        assert!(!caches.reached(1, [3, 0, 0]));
        let progress = next(&mut caches).await;
        assert!(
            matches!(&progress, Progress::Unknown(why) if why.contains("over TCP")),
            "{progress:?}"
        );
    }

    /// The pass that ends first may have begun before the change.
    #[tokio::test]
    async fn cached_flows_follow_when_a_second_pass_has_ended() {
        for (version, datapath, asks) in [
            ("3.3.0", Datapath::Userspace, &[WAIT, WAIT][..]),
            ("3.1.2", Datapath::Userspace, &[WAIT, PURGE, WAIT, PURGE]),
            ("3.1.2", Datapath::Kernel, &[WAIT, WAIT]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("ovs-vswitchd.1.ctl");
            let listener = tokio::net::UnixListener::bind(&socket).unwrap();
            let mut caches = Caches::start(Where {
                folder: None,
                socket: Some(socket),
            });
            caches.set_datapath(&datapath);
            assert!(!caches.reached(1, [1, 0, 0]));
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut framer = Framer::default();
            let version = format!("ovs-vswitchd (Open vSwitch) {version}");
            let answers = [("list-commands", WAIT), ("version", version.as_str())];
            let asks = asks.iter().map(|method| (*method, ""));
            for (method, result) in answers.into_iter().chain(asks) {
                let asked = loop {
                    tokio::select! {
                        asked = asked(&mut stream, &mut framer) => break asked,
                        progress = next(&mut caches) => {
                            assert!(!matches!(progress, Progress::Done(_)), "before {method} is asked");
                        }
                    }
                };
                assert_eq!(asked["method"], method);
                let answer = serde_json::json!({"id": asked["id"], "result": result, "error": null});
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer.to_string().as_bytes())
                    .await
                    .unwrap();
            }
            while !matches!(next(&mut caches).await, Progress::Done(1)) {}
        }
    }

    /// The next request that the daemon receives.
    async fn asked(stream: &mut tokio::net::UnixStream, framer: &mut Framer) -> serde_json::Value {
        loop {
            if let Some(asked) = framer.next_value().unwrap() {
                return asked;
            }
            let mut bytes = [0; 4096];
            let count = tokio::io::AsyncReadExt::read(stream, &mut bytes).await.unwrap();
            assert!(count > 0, "the connection ended");
            framer.push(&bytes[..count]);
        }
    }

    #[test]
    fn releases_with_the_fault() {
        for (version, faulty) in [
            ("3.1.0", true),
            ("3.1.2", true),
            ("3.1.3", false),
            ("3.0.4", true),
            ("3.0.5", false),
            ("2.17.7", true),
            ("2.17.8", false),
            ("2.16.9", true),
            ("3.2.0", false),
            ("3.3.10", false),
            ("", true),
        ] {
            assert_eq!(is_faulty(version), faulty, "{version}");
        }
    }
}
