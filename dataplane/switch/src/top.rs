//! `portcullis-switch top`: port rates, refreshed from the metrics of a running switch.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

const PREFIX: &str = "portcullis_switch_";

/// Values by metric and port. Drops are added up over their reasons.
type Values = BTreeMap<(u16, String), u64>;

/// Asks a switch for its metrics.
fn fetch(address: SocketAddr) -> io::Result<String> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200") => {
            Ok(body.to_string())
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "this does not answer like a switch's --metrics",
        )),
    }
}

/// What the metrics say of ports.
pub fn read(text: &str) -> Values {
    let mut values = Values::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let Some((name, rest)) = line.strip_prefix(PREFIX).and_then(|l| l.split_once('{')) else {
            continue;
        };
        let Some((labels, value)) = rest.rsplit_once("} ") else {
            continue;
        };
        let port = labels
            .split(',')
            .find_map(|l| l.strip_prefix("port=\"")?.strip_suffix('"')?.parse().ok());
        if let (Some(port), Ok(value)) = (port, value.parse::<u64>()) {
            let name = name.strip_suffix("_total").unwrap_or(name).to_string();
            *values.entry((port, name)).or_default() += value;
        }
    }
    values
}

/// Columns: title, metric, and whether it is shown per second.
const COLUMNS: [(&str, &str, bool); 8] = [
    ("RX PACKETS/S", "received_packets", true),
    ("RX BYTES/S", "received_bytes", true),
    ("TX PACKETS/S", "sent_packets", true),
    ("TX BYTES/S", "sent_bytes", true),
    ("DROPPED/S", "dropped_packets", true),
    ("DROPPED", "dropped_packets", false),
    ("UNSENT", "unsent_packets", false),
    ("MISSED", "missed_packets", false),
];

/// The table of two readings that are `seconds` apart.
pub fn draw(before: &Values, now: &Values, seconds: f64) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).force_no_tty();
    table.set_header(std::iter::once("PORT").chain(COLUMNS.iter().map(|c| c.0)));
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut ports: Vec<u16> = now.keys().map(|(port, _)| *port).collect();
    ports.dedup();
    for port in ports {
        let of =
            |values: &Values, metric: &str| values.get(&(port, metric.to_string())).copied().unwrap_or(0);
        let mut row = vec![port.to_string()];
        for (_, metric, per_second) in COLUMNS {
            let value = of(now, metric);
            row.push(if per_second {
                let more = value.saturating_sub(of(before, metric));
                format!("{:.0}", more as f64 / seconds)
            } else {
                value.to_string()
            });
        }
        table.add_row(row);
    }
    table.to_string()
}

/// Draws until the terminal or the switch goes away; `looks` bounds how often.
pub fn run(address: SocketAddr, every: Duration, looks: Option<u32>) -> io::Result<()> {
    use io::IsTerminal;
    let clear = if io::stdout().is_terminal() {
        "\x1b[H\x1b[J"
    } else {
        ""
    };
    let mut before = (Instant::now(), read(&fetch(address)?));
    let mut left = looks;
    while left != Some(0) {
        std::thread::sleep(every);
        let now = (Instant::now(), read(&fetch(address)?));
        let seconds = (now.0 - before.0).as_secs_f64().max(0.001);
        let mut out = io::stdout().lock();
        writeln!(out, "{clear}{}", draw(&before.1, &now.1, seconds))?;
        before = now;
        left = left.map(|n| n - 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let look = |packets: u64, drops: u64| {
            read(&format!(
                "# HELP x y\nportcullis_switch_received_packets_total{{port=\"3\"}} {packets}\n\
                 portcullis_switch_dropped_packets_total{{port=\"3\",reason=\"runt\"}} {drops}\n\
                 portcullis_switch_dropped_packets_total{{port=\"3\",reason=\"hairpin\"}} 1\n\
                 portcullis_switch_buffers 9\n"
            ))
        };
        let text = draw(&look(10, 0), &look(30, 4), 2.0);
        let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["3", "10", "0", "0", "0", "2", "5", "0", "0"]);
    }
}
