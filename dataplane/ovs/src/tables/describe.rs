//! Prints the documentation of the pipeline from the contracts of its tables.

use std::fmt::Write as _;

use portcullis_backend::delta::Layer;
use portcullis_openflow::Field;

use super::contract::{MISSED, Miss, Priority};
use super::{Effect, Table};
use crate::expiry;
use crate::regs;

/// What the bridge does while our rows are not there.
const WITHOUT_ROWS: &str = "
## Without the agent's rows

**After a start of ovs-vswitchd** the tables are empty. What happens then is the bridge's `fail_mode`: a bridge as
`ovs-vsctl add-br` makes it (`standalone`) passes every packet until the agent has written its rows again, and for ever when
no agent runs; with `secure` it drops. `portcullis status` says so as long as the bridge is not `secure`, and counts the
seconds it saw. `fail_mode = \"secure\"` lets the agent set it. A change of the mode empties the tables of a running bridge,
so the agent makes it before it writes its first row, or when it is started with `--allow-interruption`. When another program
changes the mode, the agent learns it from OVSDB and writes its rows again at once.

**A planned restart** of ovs-vswitchd loses fewer packets with `flow-restore-wait`, under which the switch forwards nothing
until it has its rows:

1. `ovs-vsctl --no-wait set Open_vSwitch . other_config:flow-restore-wait=true`
2. restart ovs-vswitchd
3. wait until `portcullis status` shows the newest generation as confirmed (JSON: `generation_confirmed`). It is not applied
   yet: the switch looks through no cached flows while it waits.
4. `ovs-vsctl --no-wait remove Open_vSwitch . other_config flow-restore-wait`
5. `portcullis status --wait`

**While the agent is away**, what it wrote stays in force, unlocks end by themselves (see above), and nothing new is done. A
server that is plugged in again has a new port number by default, and with it no rows: it sends and receives nothing until
the agent is back. With `ofport_request` of its interface it comes back with its number, and its rows are still there. With
the agent there a new port waits for its rows, some milliseconds.

**When `first_table` or `cookie` changes**, or a new version of the agent has other tables, the rows of before are still on
the bridge. The agent records tag and tables for each bridge before it writes. Rows under a former tag are written again in
their place. Rows in tables that are not used any more go when every new row is in force. Where a table's number means
another table now, one atomic bundle replaces all. `portcullis status` counts what is left over. Rows under any other tag are
another agent's and stay.
";

const COOKIES: &str = "
| cookie bits | hold |
|---|---|
| 63..48 | the agent's tag (`cookie`), by which it knows its rows |
| 47 | the row is not compared: learned by the switch, or the nudge (see `caches.rs`) |
| 46 | learned: bits 31..0 are the port |
| 45 | learned: a MAC that several ports declare |
| 46..40 | in other rows: the slice that the row is read back with |
| 39..0 | in other rows: the generation that wrote the row |
";

/// The pipeline as a document.
pub fn describe() -> String {
    let mut text = String::from(
        "# The OVS pipeline\n\nPrinted by `portcullis docs ovs-pipeline`; a test compares. Numbers are relative to \
         `first_table`.\n\n| table | name | what it does | layer | no row matches |\n|---|---|---|---|---|\n",
    );
    for table in Table::all() {
        let contract = table.contract();
        let layer = match contract.layer {
            Layer::Policy => "policy",
            Layer::Dispatch => "dispatch",
            Layer::Support => "support",
        };
        let miss = match contract.miss {
            Miss::Drop => "drop".to_string(),
            Miss::Row(priority) => format!("row `{}`", priority.name),
            Miss::Return => "back to the table that asked".to_string(),
        };
        let (number, name, does) = (table as u8, contract.name, contract.does);
        let _infallible = writeln!(
            text,
            "| +{number} | [`{name}`](#{name}) | {does} | {layer} | {miss} |"
        );
    }
    text.push_str(
        "\nPolicy rows belong to a class. New ones, the dispatch rows that lead to them, and the deletes of old ones are one \
         atomic bundle.\n\n| register | name | holds |\n|---|---|---|\n",
    );
    for register in regs::ALL {
        let _infallible = writeln!(
            text,
            "| {} | `{}` | {} |",
            register.field, register.name, register.holds
        );
    }
    text.push_str(COOKIES);
    let _infallible = write!(
        text,
        "\nThe row of `attach` and of `deliver` that leads a port to a class is a stack while unlocks hold: the lowest row \
         is permanent and leads to what holds when all have ended, and above it stands a row for each end, one priority \
         higher the earlier it is, with a `hard_timeout` of the whole seconds that remain. So the switch closes what \
         unlocks opened even when the agent is dead. At most {} ends of a port and direction are rows; what ends later is \
         then closed with the last of them, unless the agent is there to write its row when earlier ones have ended. A \
         timeout holds {} seconds at most: rows that last longer are written again when less than half of that is \
         left, and end early if the agent is away that long.\n\n## Rows of each table\n\nA row has a priority, match \
         fields and actions of these lists, and no others.\n",
        expiry::ENDS,
        expiry::MAX,
    );
    for table in Table::all() {
        text += &section(table);
    }
    text.push_str(WITHOUT_ROWS);
    text
}

/// What one table holds.
fn section(table: Table) -> String {
    let contract = table.contract();
    let list = |names: Vec<String>| names.join(", ");
    let keys = contract.keys.iter().map(|key| format!("`{}`", field(*key)));
    let effects = contract.effects.iter().map(|does| effect(*does));
    let mut text = format!(
        "\n### {}\n\nMatches {}.\nActions: {}.\n\n| priority | name | rows |\n|---|---|---|\n",
        contract.name,
        list(keys.collect()),
        list(effects.collect())
    );
    let missed = (contract.miss == Miss::Drop).then_some(&MISSED);
    for priority in contract.priorities.iter().chain(missed) {
        let Priority { name, rows, .. } = priority;
        let _infallible = writeln!(text, "| {} | `{name}` | {rows} |", numbers(priority));
    }
    text
}

fn numbers(priority: &Priority) -> String {
    let Priority { lowest, highest, .. } = priority;
    if lowest == highest {
        lowest.to_string()
    } else {
        format!("{lowest} to {highest}")
    }
}

fn field(field: Field) -> String {
    let register = regs::ALL.iter().find(|register| register.field == field);
    match (register, field) {
        (Some(register), _) => register.name.to_string(),
        // The name in rows as `ovs-ofctl` shows them.
        (None, Field::InPort | Field::InPort16) => Field::InPort16.to_string(),
        (None, field) => field.to_string(),
    }
}

fn effect(effect: Effect) -> String {
    match effect {
        Effect::Drop => "drop".to_string(),
        Effect::Goto(table) => format!("go to `{}`", table.name()),
        Effect::Resubmit(table) => format!("look up `{}`", table.name()),
        Effect::Set(to) => format!("set `{}`", field(to)),
        Effect::PopVlan => "remove a tag".to_string(),
        Effect::PushVlan => "add a tag".to_string(),
        Effect::Output => "output".to_string(),
        Effect::Normal => "NORMAL".to_string(),
        Effect::Learn(table) => format!("learn a row of `{}`", table.name()),
        Effect::Foreign => "go to the table that `final` names".to_string(),
    }
}
