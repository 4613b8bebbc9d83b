//! The agent as a process of its own, and a client on its Unix socket.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_policy::Document;
use portcullis_proto::v1;
use portcullis_proto::v1::endpoint_service_client::EndpointServiceClient;
use portcullis_proto::v1::policy_service_client::PolicyServiceClient;
use portcullis_proto::v1::target_service_client::TargetServiceClient;
use tonic::transport::Channel;

use crate::machine::field;
use crate::switch::PATIENCE;
use crate::{BenchError, Result};

/// How often an agent that starts is looked for.
const LOOK: Duration = Duration::from_millis(2);
/// Largest message of a client, bytes: documents of ten thousands of endpoints.
const MESSAGE: usize = 256 << 20;
/// Characters of the log that an error shows.
const LOG_SHOWN: usize = 2_000;

/// How an agent is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGTERM: it may finish.
    Term,
    /// SIGKILL: it writes nothing more.
    Kill,
}

/// Where an agent's program and files are.
#[derive(Debug, Clone)]
pub struct Place {
    program: PathBuf,
    folder: PathBuf,
    metrics: std::net::SocketAddr,
}

impl Place {
    /// For `program` with one target, as the configuration writes it: configuration, database and socket lie in a folder
    /// that somebody else removes.
    pub fn prepare(program: &Path, folder: &Path, target: &str) -> Result<Self> {
        Self::prepare_with(program, folder, target, "", "")
    }

    /// The same, with more settings of `[api]`, and more sections.
    pub fn prepare_with(
        program: &Path,
        folder: &Path,
        target: &str,
        api: &str,
        sections: &str,
    ) -> Result<Self> {
        if !program.is_file() {
            return Err(BenchError::NotBuilt(program.to_path_buf()));
        }
        let free = TcpListener::bind("127.0.0.1:0").map_err(BenchError::io("find a free TCP port"))?;
        let metrics = free
            .local_addr()
            .map_err(BenchError::io("find a free TCP port"))?;
        let place = Place {
            program: program.to_path_buf(),
            folder: folder.to_path_buf(),
            metrics,
        };
        let text = format!(
            "[api]\nsocket = \"{socket}\"\n{api}{sections}[store]\npath = \"{store}\"\n[metrics]\nlisten = \"{metrics}\"\n\
             [[target]]\n{target}",
            socket = place.socket().display(),
            store = place.folder.join("portcullis.db").display(),
        );
        std::fs::write(place.config(), text).map_err(BenchError::io("write the agent's configuration"))?;
        Ok(place)
    }

    fn config(&self) -> PathBuf {
        self.folder.join("agent.toml")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }
}

/// A running agent; killed when it is dropped.
pub struct Daemon {
    child: Child,
    place: Place,
    /// When the process was started.
    pub started: Instant,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Daemon {
    pub fn start(place: &Place) -> Result<Self> {
        let log = File::create(place.log()).map_err(BenchError::io("create the agent's log"))?;
        let started = Instant::now();
        let child = Command::new(&place.program)
            .args(["agent", "--config"])
            .arg(place.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(BenchError::io(format!("start {}", place.program.display())))?;
        Ok(Daemon {
            child,
            place: place.clone(),
            started,
        })
    }

    /// Connects, and returns as soon as a first call is answered.
    pub async fn client(&mut self) -> Result<Client> {
        let address = format!("unix://{}", self.place.socket().display());
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .map_err(BenchError::io("look after the agent"))?
            {
                return Err(BenchError::AgentEnded {
                    status,
                    log: self.log_end(),
                });
            }
            let endpoint = tonic::transport::Endpoint::from_shared(address.clone());
            if let Ok(endpoint) = endpoint
                && let Ok(channel) = endpoint.connect().await
            {
                let mut client = Client::over(channel);
                client.targets().await?;
                return Ok(client);
            }
            if self.started.elapsed() > PATIENCE {
                return Err(BenchError::Late {
                    what: "serving".to_string(),
                    limit: PATIENCE,
                    seen: self.log_end(),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it and waits for its end.
    pub fn end(mut self, how: End) -> Result<()> {
        match how {
            End::Kill => self.child.kill().map_err(BenchError::io("kill the agent"))?,
            End::Term => {
                let mut command = Command::new("kill");
                command.arg("-TERM").arg(self.child.id().to_string());
                crate::switch::run(command)?;
            }
        }
        self.child
            .wait()
            .map_err(BenchError::io("wait for the agent's end"))?;
        Ok(())
    }

    /// Its resident memory now and at most, MiB.
    pub fn memory(&self) -> [f64; 2] {
        let path = format!("/proc/{}/status", self.child.id());
        ["VmRSS", "VmHWM"].map(|name| {
            let kib: Option<f64> = field(&path, name).split(' ').next().and_then(|n| n.parse().ok());
            kib.unwrap_or(f64::NAN) / 1024.0
        })
    }

    /// Descriptors that it has open.
    pub fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.map_or(0, Iterator::count)
    }

    /// Sum in seconds and count of one of its histograms.
    pub fn histogram(&self, name: &str) -> Result<(f64, f64)> {
        let failed = || BenchError::io("read the agent's metrics");
        let mut stream = std::net::TcpStream::connect(self.place.metrics).map_err(failed())?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .map_err(failed())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(failed())?;
        let value = |suffix: &str| {
            let key = format!("{name}_{suffix} ");
            let found = text.lines().find_map(|line| line.strip_prefix(&key));
            found.and_then(|v| v.trim().parse().ok()).unwrap_or(0.0)
        };
        Ok((value("sum"), value("count")))
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(self.place.log()).unwrap_or_else(|error| error.to_string());
        let skip = text.chars().count().saturating_sub(LOG_SHOWN);
        text.chars().skip(skip).collect()
    }
}

/// A client of the agent.
#[derive(Debug, Clone)]
pub struct Client {
    endpoints: EndpointServiceClient<Channel>,
    policy: PolicyServiceClient<Channel>,
    targets: TargetServiceClient<Channel>,
    channel: Channel,
}

impl Client {
    fn over(channel: Channel) -> Self {
        Client {
            endpoints: EndpointServiceClient::new(channel.clone()),
            policy: PolicyServiceClient::new(channel.clone())
                .max_encoding_message_size(MESSAGE)
                .max_decoding_message_size(MESSAGE),
            channel: channel.clone(),
            targets: TargetServiceClient::new(channel).max_decoding_message_size(MESSAGE),
        }
    }

    /// The connection, for other services.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Applies a document; the generation it made.
    pub async fn apply(&mut self, document: &Document) -> Result<u64> {
        let request = v1::ApplyDocumentRequest {
            document: serde_json::to_string(document)?,
            ..v1::ApplyDocumentRequest::default()
        };
        let answer = self
            .policy
            .apply_document(request)
            .await
            .map_err(BenchError::call("ApplyDocument"))?;
        Ok(answer.into_inner().generation)
    }

    pub async fn endpoint(&mut self, name: &str) -> Result<v1::Endpoint> {
        let request = v1::GetRequest {
            name: name.to_string(),
        };
        let answer = self
            .endpoints
            .get_endpoint(request)
            .await
            .map_err(BenchError::call("GetEndpoint"))?;
        Ok(answer.into_inner())
    }

    /// Makes an endpoint what is given; the generation that did.
    pub async fn provision(&mut self, endpoint: v1::Endpoint) -> Result<u64> {
        let request = v1::ProvisionRequest {
            endpoint: Some(endpoint),
        };
        let answer = self
            .endpoints
            .provision(request)
            .await
            .map_err(BenchError::call("Provision"))?;
        Ok(answer.into_inner().generation)
    }

    /// The targets as they stand.
    pub async fn targets(&mut self) -> Result<Vec<v1::Target>> {
        let request = v1::ListTargetsRequest {};
        let answer = self
            .targets
            .list_targets(request)
            .await
            .map_err(BenchError::call("ListTargets"))?;
        Ok(answer.into_inner().targets)
    }

    /// Waits until the switch follows a generation (0: the newest), caches included; the target then.
    pub async fn realized(&mut self, generation: u64) -> Result<v1::Target> {
        let request = v1::WaitRealizedRequest {
            generation,
            timeout_ms: u32::try_from(PATIENCE.as_millis()).unwrap_or(u32::MAX),
        };
        let answer = self
            .targets
            .wait_realized(request)
            .await
            .map_err(BenchError::call("WaitRealized"))?
            .into_inner();
        match answer.targets.into_iter().next() {
            Some(target) if answer.realized => Ok(target),
            seen => Err(BenchError::Late {
                what: format!("realized (generation {})", answer.generation),
                limit: PATIENCE,
                seen: format!("{seen:?}"),
            }),
        }
    }
}

/// The rule that [`own_rule`](crate::documents::own_rule) makes, as the API has it.
pub fn own_rule(n: u64) -> v1::Rule {
    v1::Rule {
        name: "own".to_string(),
        action: v1::Action::Allow.into(),
        direction: v1::Direction::Ingress.into(),
        protocol: "tcp".to_string(),
        ports: vec![(30_000 + n % 10_000).to_string()],
        ..v1::Rule::default()
    }
}
