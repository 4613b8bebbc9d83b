//! Whether an agent without a `[[target]]` programs what was found.

use crate::datapath::Datapath;

/// What is to be done about what was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision<'a> {
    /// Nothing is there: go on looking.
    Nothing,
    /// It is the only datapath here, and its uplinks are known: program it.
    Program(&'a Datapath),
    /// It is the only datapath here and is not programmed unasked, for this reason.
    Unclear(&'a Datapath, &'a str),
    /// There are several, so that a person has to say which is meant.
    Several(Vec<&'a Datapath>),
    /// Some places could not be read: there may be more.
    Unread(&'a [String]),
}

/// Decides. Those that Portcullis cannot program count, too: servers may be on them. `unread` are places that could not be read, as
/// [`Findings::unread`](crate::Findings::unread) says them.
pub fn decide<'a>(datapaths: &'a [Datapath], unread: &'a [String]) -> Decision<'a> {
    match datapaths {
        [] | [_] if !unread.is_empty() => Decision::Unread(unread),
        [] => Decision::Nothing,
        [one] => match &one.needs_target {
            None => Decision::Program(one),
            Some(why) => Decision::Unclear(one, why),
        },
        several => Decision::Several(several.iter().collect()),
    }
}
