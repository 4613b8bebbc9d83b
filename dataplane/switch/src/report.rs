//! Prometheus metrics, and the table of `top`.

use std::fmt::Write;

use portcullis_fastpath::DropReason;
use portcullis_nic::PortReport;

use crate::counters::PortCount;
use crate::engine::Engine;
use crate::switch::{Missed, Switch};

/// One port, at a moment.
#[derive(Debug, Clone, Default)]
pub struct PortLine {
    pub number: u16,
    /// As it was written.
    pub text: String,
    /// Whether its link is up; unknown when the device does not say.
    pub up: Option<bool>,
    pub count: PortCount,
    /// Frames that were lost before a worker saw them.
    pub missed: Missed,
}

/// A line for each port, in the order of the configuration.
pub fn ports(switch: &Switch) -> Vec<PortLine> {
    let lines = switch.ports.iter().map(|port| PortLine {
        number: port.number,
        text: port.text.clone(),
        up: port.device.up(),
        count: switch.engine.sums().port(port.number),
        missed: port.device.missed(),
    });
    lines.collect()
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    let _written = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
        .collect();
    let _written = writeln!(text, "{name}{{{}}} {value}", labels.join(","));
}

/// Rules on the NICs of ports.
fn nics(text: &mut String, engine: &Engine) {
    let Some(nics) = engine.nics() else { return };
    let (ports, _) = nics.report();
    type Of = fn(&PortReport) -> u64;
    let families: [(&str, &str, &str, Of); 8] = [
        ("rules", "gauge", "Rules on the NIC of a port.", |n| {
            n.installed as u64
        }),
        (
            "rules_wanted",
            "gauge",
            "Rules that would be on the NIC if it took them all.",
            |n| n.wanted as u64,
        ),
        (
            "fault",
            "gauge",
            "1 if the NIC may drop what is allowed, since rules cannot be removed.",
            |n| u64::from(!n.fault.is_empty()),
        ),
        (
            "rules_created_total",
            "counter",
            "Rules created on the NIC.",
            |n| n.moves.created,
        ),
        (
            "rules_destroyed_total",
            "counter",
            "Rules destroyed on the NIC.",
            |n| n.moves.destroyed,
        ),
        (
            "rules_refused_total",
            "counter",
            "Rules that the NIC refused.",
            |n| n.moves.refused,
        ),
        (
            "rules_replaced_total",
            "counter",
            "Rules destroyed for others with more hits.",
            |n| n.moves.replaced,
        ),
        (
            "resets_total",
            "counter",
            "Times that the port lost its rules.",
            |n| n.moves.resets,
        ),
    ];
    for (name, kind, help, value) in families {
        let name = format!("portcullis_switch_nic_{name}");
        family(text, &name, kind, help);
        for nic in &ports {
            sample(text, &name, &[("port", &nic.port.to_string())], value(nic));
        }
    }
}

/// Metrics, in the text format of Prometheus.
pub async fn metrics(engine: &Engine, ports: &[PortLine], buffers: (u32, u32)) -> String {
    let mut text = String::new();
    type Of = fn(&PortLine) -> u64;
    let families: [(&str, &str, Of); 7] = [
        ("received_packets", "Frames taken from a port.", |p| {
            p.count.received.packets
        }),
        ("received_bytes", "Bytes taken from a port.", |p| {
            p.count.received.bytes
        }),
        ("sent_packets", "Frames given to a port.", |p| {
            p.count.sent.packets
        }),
        ("sent_bytes", "Bytes given to a port.", |p| p.count.sent.bytes),
        ("unsent_packets", "Frames that a port had no room for.", |p| {
            p.count.unsent
        }),
        ("too_long_packets", "Frames longer than a port sends.", |p| {
            p.count.too_long
        }),
        (
            "crowded_packets",
            "Frames taken from a port that the worker of their flow had no room for.",
            |p| p.count.crowded,
        ),
    ];
    for (name, help, value) in families {
        let name = format!("portcullis_switch_{name}_total");
        family(&mut text, &name, "counter", help);
        for port in ports {
            sample(
                &mut text,
                &name,
                &[("port", &port.number.to_string())],
                value(port),
            );
        }
    }
    let name = "portcullis_switch_missed_packets_total";
    family(
        &mut text,
        name,
        "counter",
        "Frames of a port that were lost before a worker saw them.",
    );
    for port in ports {
        let missed = port.missed;
        let number = port.number.to_string();
        for (reason, value) in [
            ("crowded", missed.crowded),
            ("no_buffer", missed.unbuffered),
            ("broken", missed.broken),
            ("too_long", missed.long),
        ] {
            sample(&mut text, name, &[("port", &number), ("reason", reason)], value);
        }
    }
    let name = "portcullis_switch_dropped_packets_total";
    family(
        &mut text,
        name,
        "counter",
        "Frames, or copies of them, that went nowhere, by the port they came in at.",
    );
    for port in ports {
        for (reason, value) in DropReason::ALL.iter().zip(port.count.drops) {
            let labels = [
                ("port", port.number.to_string()),
                ("reason", reason.name().to_string()),
            ];
            let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
            sample(&mut text, name, &labels, value);
        }
    }
    nics(&mut text, engine);
    let uses = engine.uses().await;
    for (name, help, which) in [
        ("portcullis_switch_table_rows", "Rows of a table.", 0),
        ("portcullis_switch_table_size", "Rows that a table takes.", 1),
    ] {
        family(&mut text, name, "gauge", help);
        for (table, rows, size) in &uses {
            let value = if which == 0 { *rows } else { *size };
            sample(&mut text, name, &[("table", table)], value as u64);
        }
    }
    for (name, help, value) in [
        (
            "portcullis_switch_buffers_in_use",
            "Packet buffers in use.",
            buffers.0,
        ),
        ("portcullis_switch_buffers", "Packet buffers.", buffers.1),
    ] {
        family(&mut text, name, "gauge", help);
        let _written = writeln!(text, "{name} {value}");
    }
    text
}
