//! Users and groups of this machine, from `/etc/passwd` and `/etc/group`.

/// The two files' texts.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    passwd: String,
    group: String,
}

/// A group: its number, and the numbers of users that are in it besides those whose own group it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub gid: u32,
    pub members: Vec<u32>,
}

impl Accounts {
    pub fn new(passwd: impl Into<String>, group: impl Into<String>) -> Self {
        Accounts {
            passwd: passwd.into(),
            group: group.into(),
        }
    }

    pub(super) fn user(&self, name: &str) -> Option<u32> {
        field_of(&self.passwd, name, 2)?.parse().ok()
    }

    pub(super) fn group(&self, name: &str) -> Option<Group> {
        let gid = field_of(&self.group, name, 2)?.parse().ok()?;
        let names = field_of(&self.group, name, 3).unwrap_or_default();
        let members = names.split(',').filter_map(|user| self.user(user.trim()));
        Some(Group {
            gid,
            members: members.collect(),
        })
    }
}

/// A field of the line whose first one is this.
fn field_of<'a>(text: &'a str, name: &str, field: usize) -> Option<&'a str> {
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    line?.split(':').nth(field).filter(|_| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name() {
        let accounts = Accounts::new(
            "root:x:0:0:root:/root:/bin/sh\nann:x:1000:100::/:\nbad:x:no:0\nbob:x:1001:100::/:\n",
            "root:x:0:\nnetops:x:500:ann,gone,bob\n\nempty:x:501:\n",
        );
        assert_eq!(accounts.user("ann"), Some(1000));
        for none in ["an", "bad", "x", "", "gone"] {
            assert_eq!(accounts.user(none), None, "{none}");
        }
        let group = accounts.group("netops").unwrap();
        assert_eq!(
            (group.gid, group.members.as_slice()),
            (500, [1000, 1001].as_slice())
        );
        assert!(accounts.group("empty").unwrap().members.is_empty());
        assert!(accounts.group("").is_none() && accounts.group("ann").is_none());
    }
}
