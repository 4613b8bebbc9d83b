//! Arbitration: in each role the controller with the highest election id may write (P4Runtime 1.6.0, section 5). Pure.

use std::collections::BTreeMap;

/// Number of a controller's stream.
pub type StreamId = u64;

/// Role and election id of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Arbitration {
    role: String,
    /// `None`: the stream never becomes primary.
    election_id: Option<u128>,
}

/// Streams with their roles, and the last primary of each role.
#[derive(Debug, Clone, Default)]
pub struct Roles {
    arbitrations: BTreeMap<StreamId, Arbitration>,
    /// The highest election id that a primary of the role has had.
    highest: BTreeMap<String, u128>,
}

/// Why an arbitration is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected {
    /// Another stream of the role has this election id.
    Taken,
    /// A stream cannot change its role.
    OtherRole,
}

/// An arbitration update for one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub stream: StreamId,
    /// Name of the role; empty for the default one.
    pub role: String,
    /// The highest election id of a primary of this role so far.
    pub election_id: Option<u128>,
    /// Whether this stream is the primary.
    pub is_primary: bool,
    /// Whether there is a primary.
    pub has_primary: bool,
}

impl Roles {
    /// Takes a stream's role and election id. Returns the updates to send.
    pub fn arbitrate(
        &mut self,
        stream: StreamId,
        role: &str,
        election_id: Option<u128>,
    ) -> Result<Vec<Notice>, Rejected> {
        let election_id = election_id.filter(|id| *id != 0);
        let others = self
            .arbitrations
            .iter()
            .filter(|(s, arbitration)| **s != stream && arbitration.role == role);
        let mut ids = others.map(|(_, arbitration)| arbitration.election_id);
        if election_id.is_some() && ids.any(|id| id == election_id) {
            return Err(Rejected::Taken);
        }
        let before = self.primary(role);
        if self
            .arbitrations
            .get(&stream)
            .is_some_and(|arbitration| arbitration.role != role)
        {
            return Err(Rejected::OtherRole);
        }
        let arbitration = Arbitration {
            role: role.to_string(),
            election_id,
        };
        self.arbitrations.insert(stream, arbitration);
        Ok(self.changed(role, before, Some(stream)))
    }

    /// Forgets a stream that ended. Returns the updates to send.
    pub fn leave(&mut self, stream: StreamId) -> Vec<Notice> {
        let Some(role) = self
            .arbitrations
            .get(&stream)
            .map(|arbitration| arbitration.role.clone())
        else {
            return Vec::new();
        };
        let before = self.primary(&role);
        self.arbitrations.remove(&stream);
        self.changed(&role, before, None)
    }

    /// A role's streams all get an update when its primary or the primary's election id changes; otherwise only
    /// the stream that asked does.
    fn changed(&mut self, role: &str, before: Option<StreamId>, asked: Option<StreamId>) -> Vec<Notice> {
        let primary = self.primary(role);
        let id = primary
            .and_then(|p| self.arbitrations.get(&p))
            .and_then(|arbitration| arbitration.election_id);
        let known = self.highest.get(role).copied();
        if let Some(id) = id {
            let highest = self.highest.entry(role.to_string()).or_default();
            *highest = (*highest).max(id);
        }
        let election_id = self.highest.get(role).copied();
        let of_role = self
            .arbitrations
            .iter()
            .filter(|(_, arbitration)| arbitration.role == role);
        of_role
            .filter(|(stream, _)| primary != before || election_id != known || Some(**stream) == asked)
            .map(|(stream, _)| Notice {
                stream: *stream,
                role: role.to_string(),
                election_id,
                is_primary: Some(*stream) == primary,
                has_primary: primary.is_some(),
            })
            .collect()
    }

    /// Who is primary: the highest election id of the role, if it is not below that of the last primary.
    fn primary(&self, role: &str) -> Option<StreamId> {
        let of_role = self
            .arbitrations
            .iter()
            .filter(|(_, arbitration)| arbitration.role == role);
        let best = of_role
            .filter_map(|(s, arbitration)| Some((arbitration.election_id?, *s)))
            .max()?;
        let highest = self.highest.get(role).copied().unwrap_or(0);
        (best.0 >= highest).then_some(best.1)
    }

    /// Whether a stream has sent its arbitration.
    pub fn knows(&self, stream: StreamId) -> bool {
        self.arbitrations.contains_key(&stream)
    }

    /// Whether a stream is the primary of a role.
    pub fn is_primary(&self, stream: StreamId, role: &str) -> bool {
        self.primary(role) == Some(stream)
    }

    /// Whether a request with this role and election id comes from the primary.
    pub fn may_write(&self, role: &str, election_id: u128) -> bool {
        let primary = self.primary(role).and_then(|p| self.arbitrations.get(&p));
        election_id != 0 && primary.is_some_and(|arbitration| arbitration.election_id == Some(election_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(notices: &[Notice]) -> Option<StreamId> {
        notices.iter().find(|t| t.is_primary).map(|t| t.stream)
    }

    #[test]
    fn the_highest_election_id_of_a_role_is_its_primary() {
        let mut roles = Roles::default();
        assert_eq!(primary(&roles.arbitrate(1, "", Some(5)).unwrap()), Some(1));
        assert_eq!(roles.arbitrate(2, "", Some(5)), Err(Rejected::Taken));
        let notices = roles.arbitrate(2, "", Some(4)).unwrap();
        assert_eq!(
            (notices.len(), primary(&notices)),
            (1, None),
            "only the backup is notified"
        );
        let notices = roles.arbitrate(2, "", Some(7)).unwrap();
        assert_eq!((notices.len(), primary(&notices)), (2, Some(2)));
        assert!(roles.may_write("", 7) && !roles.may_write("", 5) && !roles.may_write("", 0));
        // Another role has a primary of its own.
        assert_eq!(primary(&roles.arbitrate(3, "qos", Some(1)).unwrap()), Some(3));
        assert!(roles.may_write("qos", 1) && !roles.may_write("", 1));
        assert_eq!(roles.arbitrate(3, "", Some(9)), Err(Rejected::OtherRole));
        // One with a lower id than the last primary's does not take over (section 5.3).
        let notices = roles.leave(2);
        assert_eq!((notices.len(), primary(&notices)), (1, None));
        assert!(!notices[0].has_primary && notices[0].election_id == Some(7));
        assert!(!roles.may_write("", 5));
        assert_eq!(primary(&roles.arbitrate(1, "", Some(7)).unwrap()), Some(1));
        assert!(
            roles
                .arbitrate(4, "", None)
                .unwrap()
                .iter()
                .all(|t| !t.is_primary)
        );
    }
}
