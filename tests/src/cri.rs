//! A small client of the container runtime interface (CRI v1), the part of it that makes and removes pods.
//!
//! gRPC over HTTP/2 on a unix socket, one connection for each call. The field numbers are those of
//! `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`; fields that no test needs are left out, which protobuf allows.

use std::collections::HashMap;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;

/// A pod.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "2")]
    pub hostname: String,
    #[prost(string, tag = "3")]
    pub log_directory: String,
    #[prost(message, optional, tag = "4")]
    pub dns_config: Option<DnsConfig>,
    #[prost(message, repeated, tag = "5")]
    pub port_mappings: Vec<PortMapping>,
    #[prost(map = "string, string", tag = "7")]
    pub annotations: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<Empty>,
}

/// What a pod is known by.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
}

/// What belongs into its resolv.conf.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub struct DnsConfig {
    #[prost(string, repeated, tag = "1")]
    pub servers: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub searches: Vec<String>,
}

/// A host port; protocol 0 is TCP, 1 UDP.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub struct PortMapping {
    #[prost(int32, tag = "1")]
    pub protocol: i32,
    #[prost(int32, tag = "2")]
    pub container_port: i32,
    #[prost(int32, tag = "3")]
    pub host_port: i32,
}

/// A message that is there, and says nothing.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// A message of one text: the id of something.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    /// Its name, as `ContainerMetadata` has it.
    #[prost(message, optional, tag = "1")]
    metadata: Option<Id>,
    /// Its image, as `ImageSpec` has it.
    #[prost(message, optional, tag = "2")]
    image: Option<Id>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(string, tag = "11")]
    log_path: String,
    #[prost(message, optional, tag = "15")]
    linux: Option<Empty>,
}

#[derive(Clone, PartialEq, Message)]
struct ExecSync {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, repeated, tag = "2")]
    cmd: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

/// How a command in a container ended.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub struct Executed {
    #[prost(bytes = "vec", tag = "1")]
    pub stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct PodStatus {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatus {
    /// `PodSandboxNetworkStatus`: its first field is the address.
    #[prost(message, optional, tag = "5")]
    network: Option<Id>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, optional, tag = "1")]
    status: Option<Conditions>,
}

#[derive(Clone, PartialEq, Message)]
struct Conditions {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    is_true: bool,
    #[prost(string, tag = "4")]
    message: String,
}

/// A runtime behind a socket.
#[derive(Debug)]
pub struct Runtime {
    socket: PathBuf,
    tokio: tokio::runtime::Runtime,
}

impl Runtime {
    /// The one that listens, or will listen, at this path.
    pub fn at(socket: &Path) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Self {
            socket: socket.to_owned(),
            tokio: tokio.expect("a runtime for the client"),
        }
    }

    /// Why the network of pods is not ready; none if it is.
    pub fn network_problem(&self) -> Option<String> {
        let status: RuntimeStatus = match self.call("Status", &Empty {}) {
            Ok(status) => status,
            Err(error) => return Some(error),
        };
        let conditions = status.status.unwrap_or_default().conditions;
        let network = conditions
            .into_iter()
            .find(|condition| condition.name == "NetworkReady");
        network.map_or_else(
            || Some("no condition".to_owned()),
            |network| (!network.is_true).then_some(network.message),
        )
    }

    /// Makes a pod; the answer is its id.
    pub fn run_pod(&self, config: &PodSandboxConfig) -> Result<String, String> {
        let config = Some(config.clone());
        self.call::<Id>("RunPodSandbox", &RunPodSandbox { config })
            .map(|id| id.id)
    }

    /// The address of a pod, as the runtime took it from the plugin's result.
    pub fn pod_ip(&self, pod: &str) -> String {
        let status: PodStatus = self.must("PodSandboxStatus", &Id { id: pod.to_owned() });
        status
            .status
            .and_then(|status| status.network)
            .unwrap_or_default()
            .id
    }

    /// Makes and starts a container in a pod.
    pub fn start(
        &self,
        pod: &str,
        config: &PodSandboxConfig,
        image: &str,
        command: &[&str],
    ) -> String {
        let id = |text: &str| {
            Some(Id {
                id: text.to_owned(),
            })
        };
        let container = ContainerConfig {
            metadata: id("main"),
            image: id(image),
            command: command.iter().map(ToString::to_string).collect(),
            log_path: "main.log".to_owned(),
            linux: Some(Empty {}),
        };
        let create = CreateContainer {
            pod_sandbox_id: pod.to_owned(),
            config: Some(container),
            sandbox_config: Some(config.clone()),
        };
        let made: Id = self.must("CreateContainer", &create);
        let _: Empty = self.must("StartContainer", &made);
        made.id
    }

    /// Runs a command in a container to its end.
    pub fn exec(&self, container: &str, command: &[&str]) -> Executed {
        let request = ExecSync {
            container_id: container.to_owned(),
            cmd: command.iter().map(ToString::to_string).collect(),
            timeout: 20,
        };
        self.must("ExecSync", &request)
    }

    /// Stops and removes a pod.
    pub fn try_remove_pod(&self, pod: &str) -> Result<(), String> {
        let id = Id { id: pod.to_owned() };
        self.call::<Empty>("StopPodSandbox", &id)?;
        self.call::<Empty>("RemovePodSandbox", &id).map(|_| ())
    }

    fn must<T: Message + Default>(&self, method: &str, request: &impl Message) -> T {
        self.call(method, request)
            .unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn call<T: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<T, String> {
        let exchange = self.exchange(method, request.encode_to_vec());
        let bytes = self
            .tokio
            .block_on(async { tokio::time::timeout(Duration::from_secs(60), exchange).await })
            .map_err(|_| "no answer within a minute".to_owned())??;
        T::decode(bytes.as_slice()).map_err(|error| error.to_string())
    }

    async fn exchange(&self, method: &str, message: Vec<u8>) -> Result<Vec<u8>, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let stream = tokio::net::UnixStream::connect(&self.socket)
            .await
            .map_err(|e| text(&e))?;
        let (mut sender, connection) = h2::client::handshake(stream).await.map_err(|e| text(&e))?;
        tokio::spawn(connection);
        let uri = format!("http://localhost/runtime.v1.RuntimeService/{method}");
        let request = http::Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|e| text(&e))?;
        poll_fn(|context| sender.poll_ready(context))
            .await
            .map_err(|e| text(&e))?;
        let (response, mut body) = sender.send_request(request, false).map_err(|e| text(&e))?;
        // One message: not compressed, its length, itself.
        let mut frame = vec![0];
        frame.extend_from_slice(
            &u32::try_from(message.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        frame.extend_from_slice(&message);
        body.send_data(frame.into(), true).map_err(|e| text(&e))?;
        let response = response.await.map_err(|e| text(&e))?;
        if let Some(status) = failure(response.headers()) {
            return Err(status);
        }
        let mut stream = response.into_body();
        let mut answer = Vec::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk.map_err(|e| text(&e))?;
            let _ = stream.flow_control().release_capacity(chunk.len());
            answer.extend_from_slice(&chunk);
        }
        let trailers = stream
            .trailers()
            .await
            .map_err(|e| text(&e))?
            .unwrap_or_default();
        match failure(&trailers) {
            Some(status) => Err(status),
            None => Ok(answer.get(5..).unwrap_or_default().to_vec()),
        }
    }
}

/// What `grpc-status` says, unless it is 0.
fn failure(headers: &http::HeaderMap) -> Option<String> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(ToOwned::to_owned)
    };
    let status = text("grpc-status").filter(|status| status != "0")?;
    Some(format!(
        "status {status}: {}",
        text("grpc-message").unwrap_or_default()
    ))
}

/// An image as `ctr images import` takes it: an OCI layout in a tar, with one layer of these files.
pub fn image(name: &str, files: &[(&str, Vec<u8>, u32)], entrypoint: &[&str]) -> Vec<u8> {
    use serde_json::json;
    use sha2::{Digest as _, Sha256};
    let sha = |bytes: &[u8]| netd_model::id::hex(&Sha256::digest(bytes));
    let layer = tar(files);
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha(&layer))]}})
    .to_string()
    .into_bytes();
    let descriptor = |kind: &str, bytes: &[u8]| {
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": format!("sha256:{}", sha(bytes)), "size": bytes.len()})
    };
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config), "layers": [descriptor("layer.v1.tar", &layer)]})
    .to_string()
    .into_bytes();
    let mut entry = descriptor("manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]})
        .to_string()
        .into_bytes();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", sha(bytes));
    tar(&[
        (
            "oci-layout",
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            0o644,
        ),
        ("index.json", index, 0o644),
        (&blob(&manifest), manifest.clone(), 0o644),
        (&blob(&config), config.clone(), 0o644),
        (&blob(&layer), layer.clone(), 0o644),
    ])
}

/// A tar (POSIX ustar) of plain files; their directories are made by whoever unpacks it.
fn tar(files: &[(&str, Vec<u8>, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, content, mode) in files {
        let mut header = [0_u8; 512];
        let mut field =
            |at: usize, text: String| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        field(0, (*path).to_owned());
        field(100, format!("{mode:07o}"));
        field(108, format!("{:07o}", 0));
        field(116, format!("{:07o}", 0));
        field(124, format!("{:011o}", content.len()));
        field(136, format!("{:011o}", 0));
        field(148, " ".repeat(8));
        field(156, "0".to_owned());
        field(257, "ustar\x0000".to_owned());
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}
