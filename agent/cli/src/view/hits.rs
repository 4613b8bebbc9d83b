//! View of hits: how often each rule decided.

use portcullis_proto::v1;
use serde::Serialize;

use super::policy::direction;
use crate::table::Grid;
use crate::term::View;

/// How often one rule decided for one class on one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HitView {
    pub target: String,
    /// Direction as seen from the endpoint: `egress` or `ingress`.
    pub direction: Option<&'static str>,
    pub rule: String,
    /// What the rows did to the packets: `allow` or `deny`.
    pub action: String,
    /// The class; 0 where it decided for no class in particular.
    pub class: u32,
    /// Some of the endpoints that share the class.
    pub endpoints: Vec<String>,
    /// How many share it.
    pub endpoint_count: u32,
    pub packets: u64,
    /// Bytes of those packets, with their Ethernet headers.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HitsView {
    /// In the agent's order.
    pub hits: Vec<HitView>,
    /// Targets whose hits are not among these.
    pub unavailable: Vec<UnavailableView>,
}

/// A target that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnavailableView {
    pub target: String,
    pub why: String,
}

impl From<v1::Unavailable> for UnavailableView {
    fn from(unavailable: v1::Unavailable) -> Self {
        UnavailableView {
            target: unavailable.target,
            why: unavailable.why,
        }
    }
}

impl From<v1::ListHitsResponse> for HitsView {
    fn from(answer: v1::ListHitsResponse) -> Self {
        let hit = |h: v1::Hit| HitView {
            target: h.target,
            direction: direction(h.direction),
            rule: h.rule,
            action: h.action,
            class: h.class,
            endpoints: h.endpoints,
            endpoint_count: h.endpoint_count,
            packets: h.packets,
            bytes: h.bytes,
        };
        HitsView {
            hits: answer.hits.into_iter().map(hit).collect(),
            unavailable: answer
                .unavailable
                .into_iter()
                .map(UnavailableView::from)
                .collect(),
        }
    }
}

/// Endpoints that a line names; the others are counted.
const NAMED: usize = 3;

impl HitView {
    fn endpoints(&self) -> String {
        let named: Vec<&str> = self.endpoints.iter().take(NAMED).map(String::as_str).collect();
        let more = (self.endpoint_count as usize).saturating_sub(named.len());
        match (named.join(", "), more) {
            (names, 0) => names,
            (names, more) if names.is_empty() => more.to_string(),
            (names, more) => format!("{names} and {more} more"),
        }
    }
}

impl View for HitsView {
    fn text(&self, width: Option<u16>) -> String {
        let columns = [
            "TARGET",
            "DIRECTION",
            "RULE",
            "ACTION",
            "#PACKETS",
            "#BYTES",
            "#CLASS",
            "ENDPOINTS",
        ];
        let mut grid = Grid::new(&columns);
        for h in &self.hits {
            grid.row([
                h.target.clone(),
                h.direction.unwrap_or_default().to_string(),
                h.rule.clone(),
                h.action.clone(),
                h.packets.to_string(),
                h.bytes.to_string(),
                if h.class == 0 {
                    String::new()
                } else {
                    h.class.to_string()
                },
                h.endpoints(),
            ]);
        }
        let mut text = match grid.is_empty() {
            true => "no hits\n".to_string(),
            false => grid.text(width),
        };
        for UnavailableView { target, why } in &self.unavailable {
            text += &format!("{target}: no hits: {why}\n");
        }
        text
    }
}
