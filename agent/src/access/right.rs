//! The right to a call, which a call does not outlive: it is judged again when the configuration, the keys of tokens or the
//! certificates that hold have changed, and when what was shown ends.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tonic::codegen::http::HeaderValue;

use super::{Access, Caller, Peer, Refusal};

/// Longest time after which it is looked whether what was shown has ended: clocks are set.
const LOOK: Duration = Duration::from_secs(1);

/// What a call goes on by.
#[derive(Debug)]
pub(super) struct Right {
    pub access: Access,
    pub path: String,
    pub peer: Option<Arc<Peer>>,
    pub shown: Option<HeaderValue>,
    pub caller: Caller,
    /// Until when what was shown holds.
    pub until: Option<SystemTime>,
    /// How often access had changed when it was judged.
    pub seen: u64,
}

impl Right {
    /// Whether the caller still is who it was, and may still call.
    pub fn check(&self) -> Result<(), Refusal> {
        let now = SystemTime::now();
        let ended = self.until.is_some_and(|until| until < now);
        if !ended && self.access.changes() == self.seen {
            return Ok(());
        }
        let shown = self.shown.as_ref().map(HeaderValue::as_bytes);
        let found = self.access.may(&self.path, self.peer.as_deref(), shown, now)?;
        match found.caller == self.caller {
            true => Ok(()),
            false => Err(Refusal::Nobody(
                "what the caller may do has changed since the call was made: call again",
            )),
        }
    }

    /// Returns when there is no right any more.
    pub async fn ends(self: Arc<Self>) -> Refusal {
        let mut changes = self.access.watch();
        loop {
            changes.mark_unchanged();
            if let Err(refusal) = self.check() {
                return refusal;
            }
            let look = async {
                match self.until {
                    Some(_) => tokio::time::sleep(LOOK).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = look => {}
            }
        }
    }
}

/// What ends when the right does.
pub(super) type Ends = Pin<Box<dyn Future<Output = Refusal> + Send>>;
