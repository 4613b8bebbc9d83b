//! Stage models from P4Info files, and what the compiler makes of them.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside the test functions fail the test too

use std::collections::BTreeSet;
use std::fmt::Write;

use portcullis_compiler::compilation::{Compilation, Compiled};
use portcullis_compiler::model::{Field, Role};
use portcullis_compiler::row::{Owner, policy_row};
use portcullis_compiler::{
    Attribution, Compiler, FrameMatch, PolicyRow, PortMatch, RemoteMatch, RowCache, StageModel, TableModel,
};
use portcullis_p4runtime::{Mapping, MappingError, P4Info, from_p4info, parse};
use portcullis_policy::{Direction, Document};

const LOGICAL: &str = include_str!("fixtures/logical.txtpb");
const ACL: &str = include_str!("fixtures/acl.txtpb");
const ACL_POOR: &str = include_str!("fixtures/acl_poor.txtpb");
const FOREIGN: &str = include_str!("fixtures/foreign.txtpb");
const FOREIGN_MAPPING: &str = include_str!("fixtures/foreign.toml");

const DOCUMENT: &str = r#"
version: portcullis/v1
baseline:
  - {name: no-smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
  - {name: no-smb, action: deny, direction: ingress, protocol: tcp, ports: [139, 445]}
profiles:
  mail:
    rules:
      - {name: smtp, action: allow, direction: egress, protocol: tcp, ports: [25], remote: [192.0.2.0/24, "2001:db8::/32"]}
      - {name: no-irc, action: deny, direction: egress, protocol: tcp, ports: ["6660-6669"]}
endpoints:
  mail1:
    attachments: [{interface: mail1}]
    profiles: [mail]
"#;

fn info(text: &str) -> P4Info {
    parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
}

fn draw(text: &str, mapping: Option<&str>) -> Result<StageModel, MappingError> {
    let mapping = mapping.map(|m| Mapping::from_toml(m).unwrap_or_else(|e| panic!("{e}")));
    from_p4info(&info(text), "device", mapping.as_ref())
}

fn error(text: &str, mapping: Option<&str>) -> String {
    match draw(text, mapping) {
        Err(error) => error.to_string(),
        Ok(model) => panic!("drawn: {}", summary(&model)),
    }
}

/// The text with one place changed.
fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from}");
    text.replacen(from, to, 1)
}

fn summary(model: &StageModel) -> String {
    let mut text = format!("{}: {}\n", model.name, model.summary);
    let StageModel {
        view,
        unreadable,
        priority_max,
        few_masks,
        opaque_ethertypes,
        ..
    } = model;
    writeln!(text, "{view:?}").unwrap();
    let opaque: Vec<String> = opaque_ethertypes.iter().map(|t| format!("{t:#06x}")).collect();
    writeln!(
        text,
        "unreadable {unreadable}, few_masks {few_masks}, opaque [{}]",
        opaque.join(", ")
    )
    .unwrap();
    writeln!(text, "priority_max {priority_max}").unwrap();
    for t in &model.tables {
        let direction = t.direction.map_or("both".to_string(), |d| d.to_string());
        let size = t.size.map_or("no size".to_string(), |s| s.to_string());
        writeln!(
            text,
            "{}: {:?} {direction}, {size} {:?}",
            t.name, t.stage, t.weight
        )
        .unwrap();
        let keys: Vec<String> = t
            .keys
            .iter()
            .map(|k| format!("{} {} {}", k.field, k.kind, k.width))
            .collect();
        writeln!(text, "    {}", keys.join(", ")).unwrap();
        writeln!(
            text,
            "    {:?}, counters {}, expires {}",
            t.actions, t.counters, t.expires
        )
        .unwrap();
    }
    text
}

/// Compiles [`DOCUMENT`], with a proof of every class.
fn compile(model: &StageModel) -> Compilation {
    let document = Document::from_yaml(DOCUMENT).unwrap();
    let intent = Compiler::default().resolve(&document, 1).unwrap();
    Compilation::new(
        &intent,
        &mut RowCache::new(model.clone()),
        Attribution::Rule,
        &BTreeSet::new(),
        |_| false,
    )
    .unwrap_or_else(|e| panic!("{e}"))
}

/// How many fields a row is about.
fn about(row: &PolicyRow) -> usize {
    let key = &row.key;
    [
        key.frame != FrameMatch::Any,
        key.protocol.is_some(),
        key.later.is_some(),
        key.flags.is_some(),
        key.remote != RemoteMatch::Any,
        key.local.is_some(),
        key.src != PortMatch::Any,
        key.dst != PortMatch::Any,
    ]
    .into_iter()
    .filter(|named| *named)
    .count()
}

/// Every row of a policy table names all that the proved row is about, by keys of the table, in as many bits as it has.
fn rows_say_all(table: &TableModel, compilation: &Compilation) -> usize {
    let classed = table.key(Field::Class).is_some();
    let here = |c: &&Compiled| table.serves(c.class.policy.direction);
    let own = compilation.classes.values().filter(here).flat_map(|c| {
        let owner = Some(c.class.id)
            .filter(|_| classed)
            .map_or(Owner::Every, Owner::Class);
        c.program.policy.iter().map(move |row| (owner, row))
    });
    let mut count = 0;
    for (owner, row) in own.chain(compilation.fixed.iter().map(|row| (Owner::Every, row))) {
        let port = (!classed).then_some("p");
        let made = policy_row(table, owner, port, row);
        let wanted = about(row) + usize::from(owner != Owner::Every) + usize::from(port.is_some());
        assert_eq!(made.keys.len(), wanted, "{} became {:?}", row.key, made.keys);
        for (field, _) in &made.keys {
            assert!(table.key(*field).is_some(), "{field} is no key of {}", table.name);
        }
        count += 1;
    }
    count
}

/// The rows per table; with each policy table's rows checked.
fn rows(model: &StageModel) -> Vec<(String, usize)> {
    let compilation = compile(model);
    assert_eq!(compilation.refusals, []);
    for table in model.tables.iter().filter(|t| t.stage == Role::Policy) {
        assert!(rows_say_all(table, &compilation) > 0, "{}", table.name);
    }
    let placed = compilation.rows();
    let of = |t: &TableModel| placed.iter().filter(|p| p.row.table == t.name).count();
    model
        .tables
        .iter()
        .map(|t| (t.name.clone(), of(t)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

#[test]
fn a_logical_pipeline() {
    let model = draw(LOGICAL, None).unwrap();
    insta::assert_snapshot!(summary(&model));
    let rows = rows(&model);
    let tables: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert!(
        tables.contains(&"egress_policy") && tables.contains(&"ingress_policy"),
        "{rows:?}"
    );
    assert_eq!(compile(&model).unsupported, []);
}

#[test]
fn an_ingress_acl_table() {
    let model = draw(ACL, None).unwrap();
    insta::assert_snapshot!(summary(&model));
    let rows = rows(&model);
    assert!(
        matches!(rows.as_slice(), [(table, n)] if table == "acl_ingress_table" && *n > 20),
        "{rows:?}"
    );
    // What endpoints are sent needs another table, and is said aloud.
    let unsupported = compile(&model).unsupported;
    assert!(!unsupported.is_empty());
    assert!(
        unsupported.iter().all(|(_, u)| u.table == "ingress_policy"),
        "{unsupported:?}"
    );
}

#[test]
fn a_foreign_table_by_mapping() {
    let model = draw(FOREIGN, Some(FOREIGN_MAPPING)).unwrap();
    insta::assert_snapshot!(summary(&model));
    let rows = rows(&model);
    assert!(
        matches!(rows.as_slice(), [(table, n)] if table == "fw.rules" && *n > 10),
        "{rows:?}"
    );
}

#[test]
fn a_mapping_corrects_what_names_give() {
    // Facts and priorities alone; the tables by name.
    let mapping = "priority_max = 4000\nfew_masks = true\n[parser]\nfragment_offset = true\nshort_header = false\n\
                   later_ipv6_protocol = true\nunreadable = false\n";
    let model = draw(ACL, Some(mapping)).unwrap();
    assert_eq!((model.priority_max, model.few_masks), (4000, true));
    assert!(model.view.fragment_offset && model.view.later_v6_protocol && !model.view.short_header);
    assert!(
        model.opaque_ethertypes.contains(&0x8847),
        "what is not stated may be hidden"
    );
    let stated = "[parser]\nopaque_ethertypes = []\n";
    assert!(draw(ACL, Some(stated)).unwrap().opaque_ethertypes.is_empty());
    // The same table by its full name, for the other direction; fields and actions by name.
    let mapping = "[[table]]\ntable = \"ingress.acl_ingress.acl_ingress_table\"\nstage = \"policy\"\ndirection = \"ingress\"\n";
    let model = draw(ACL, Some(mapping)).unwrap();
    let table = model.table(Role::Policy, Direction::Ingress).unwrap();
    let (local, first) = (Field::LocalIpv4, |f| table.keys.iter().position(|k| k.field == f));
    // `src_ip` comes before `dst_ip`, and what endpoints are sent comes from the remote side.
    assert!(first(Field::RemoteIpv4) < first(local), "{:?}", table.keys);
}

#[test]
fn a_table_that_sees_too_little_is_refused_with_reasons() {
    insta::assert_snapshot!(error(ACL_POOR, None));
    insta::assert_snapshot!("foreign_without_mapping", error(FOREIGN, None));
    assert!(error("", None).contains("the P4Info has no tables"));
}

#[test]
fn no_policy_table_is_drawn_without_what_rows_name() {
    // Rows on these fields are written whatever the model says: without one, the row would match too much.
    for (name, reason) in [
        ("ether_type", "it has no `ether_type`"),
        ("ip_protocol", "it has no `protocol`"),
        ("is_later_fragment", "it has no `later`"),
        ("tcp_flags", "it has no `tcp_flags`"),
        ("l4_src_port", "it has no `src_port`"),
        ("l4_dst_port", "it has no `dst_port`"),
        ("in_port", "it has neither `class` nor `port`"),
    ] {
        let text = changed(ACL, &format!("name: \"{name}\""), "name: \"mystery\"");
        let message = error(&text, None);
        assert!(message.contains(reason), "{message}");
    }
    let mapped = changed(FOREIGN_MAPPING, "\"ig_md.lkp.frag\" = \"later\"\n", "");
    assert_eq!(
        error(FOREIGN, Some(&mapped)),
        "table.fw.rules cannot serve as `policy`: it has no `later`; it can hold a part of a policy: set partial = true in the mapping"
    );
    // The mark is no use to a table that cannot match it.
    let marked = changed(FOREIGN_MAPPING, "unreadable = false", "unreadable = true");
    assert!(error(FOREIGN, Some(&marked)).contains("it has no `unreadable`"));
}

#[test]
fn an_exact_field_without_a_meaning_makes_a_table_unusable() {
    let exact = |name: &str, kind: &str| {
        let at = LOGICAL.find("alias: \"egress_policy\"").unwrap();
        let (before, after) = LOGICAL.split_at(at);
        let field = format!(
            "  match_fields {{\n    id: 99\n    name: \"{name}\"\n    bitwidth: 8\n    {kind}\n  }}\n"
        );
        format!(
            "{before}{}",
            changed(after, "  match_fields {", &format!("{field}  match_fields {{"))
        )
    };
    assert_eq!(
        error(&exact("meta.tenant", "match_type: EXACT"), None),
        "table.egress_policy cannot serve as `policy`: every row has to match `meta.tenant`, but it has no meaning here"
    );
    assert!(error(&exact("meta.tenant", "other_match_type: \"fuzzy\""), None).contains("`meta.tenant`"));
    for kind in ["TERNARY", "OPTIONAL", "RANGE", "LPM"] {
        let model = draw(&exact("meta.tenant", &format!("match_type: {kind}")), None).unwrap();
        assert_eq!(model.tables, draw(LOGICAL, None).unwrap().tables);
    }
    // Known, but not named by every row.
    let text = LOGICAL.replace(
        "name: \"meta.protocol\"\n    bitwidth: 8\n    match_type: TERNARY",
        "name: \"meta.protocol\"\n    bitwidth: 8\n    match_type: EXACT",
    );
    assert!(error(&text, None).contains("`protocol` is exact, and some rows leave it open"));
}

#[test]
fn icmp_fields_of_one_ip_version_are_left_out() {
    let has = |model: &StageModel, field| model.tables.iter().any(|t| t.key(field).is_some());
    let model = draw(ACL, None).unwrap();
    assert!(has(&model, Field::IcmpType) && !has(&model, Field::IcmpCode));
    assert!(
        model
            .summary
            .contains("acl_ingress_table.icmp_code (it is of one IP version)"),
        "{}",
        model.summary
    );
    // Our own programs have one field for both.
    assert!(has(&draw(LOGICAL, None).unwrap(), Field::IcmpCode));
}

#[test]
fn what_a_device_cannot_do_is_said() {
    let constant = changed(LOGICAL, "size: 32768", "size: 32768\n  is_const_table: true");
    assert!(error(&constant, None).contains("its rows are constant"));
    let profile = changed(
        LOGICAL,
        "size: 32768",
        "size: 32768\n  implementation_id: 285212673",
    );
    assert!(error(&profile, None).contains("members of an action profile"));
    let negative = changed(LOGICAL, "size: 32768", "size: -1");
    assert!(error(&negative, None).contains("its size is -1"));
    let no_deny = changed(
        ACL,
        "name: \"acl_drop\"\n    alias: \"acl_drop\"",
        "name: \"acl_trap\"\n    alias: \"acl_trap\"",
    );
    assert!(error(&no_deny, None).contains("no action of its rows is `deny`"));
    let default_only = changed(
        ACL,
        "    id: 16777475\n  }",
        "    id: 16777475\n    scope: DEFAULT_ONLY\n  }",
    );
    assert!(error(&default_only, None).contains("no action of its rows is `allow`"));
    let twice = changed(
        ACL,
        "name: \"vlan_id\"\n    bitwidth: 12",
        "name: \"src_port\"\n    bitwidth: 16",
    );
    assert!(error(&twice, None).contains("both `l4_src_port` and `src_port` are `src_port`"));
    let ranges = changed(
        LOGICAL,
        "name: \"meta.src_port\"\n    bitwidth: 16\n    match_type: TERNARY",
        "name: \"meta.src_port\"\n    bitwidth: 16\n    match_type: RANGE",
    );
    assert!(
        error(&ranges, None)
            .contains("table.src_code cannot serve as `src_code`: `src_port` does not match as it does in")
    );
    let from = ACL.find("tables {\n  preamble {\n    id: 33554434").unwrap();
    let table = ACL.get(from..ACL.find("actions {").unwrap()).unwrap();
    let second = table
        .replace("acl_ingress_table", "acl_second_table")
        .replace("id: 33554434", "id: 33554444");
    let several = ACL.to_string() + &second;
    let message = error(&several, None);
    assert!(
        message.starts_with("more than one table can play the stage `policy`"),
        "{message}"
    );
    assert!(
        message.contains("acl_second_table (is_ip: optional 1"),
        "{message}"
    );
    assert!(!message.contains("ipv4_table"), "{message}");
}

/// The example in the docs is a mapping, and they name every field.
#[test]
fn the_docs_say_how_a_mapping_is_written() {
    let docs = include_str!("../../../docs/p4runtime.md");
    let (_, section) = docs.split_once("## Mappings").unwrap();
    let (_, example) = section.split_once("```toml\n").unwrap();
    let (example, fields) = example.split_once("```\n").unwrap();
    let mapping = Mapping::from_toml(example).unwrap();
    assert_eq!(
        (mapping.priority_min, mapping.priority_max),
        (Some(1000), Some(5999))
    );
    let unknown =
        Mapping::from_toml("[[table]]\ntable = \"t\"\nstage = \"policy\"\n[table.fields]\na = \"b\"\n");
    let known = unknown.unwrap_err().to_string();
    let (_, list) = known.split_once("expected one of ").unwrap();
    for field in list
        .split(", ")
        .map(str::trim)
        .filter(|field| *field != "`overlay`")
    {
        assert!(fields.contains(field), "{field}");
    }
}

#[test]
fn what_is_wrong_in_a_mapping_is_named() {
    let cases = [
        (
            "table = \"fw.rules\"",
            "table = \"fw.rulez\"",
            "table.fw.rulez.table: there is no such table; there are fw.rules, l3",
        ),
        (
            "direction = \"egress\"\n",
            "",
            "table.fw.rules.direction: is missing",
        ),
        (
            "\"ig_md.lkp.sport\"",
            "\"ig_md.lkp.spot\"",
            "fields: there is no match field `ig_md.lkp.spot`; it has `ig_md.port`, ",
        ),
        (
            "\"ig_md.lkp.tcp_bits\" = \"tcp_flags\"",
            "\"ig_md.lkp.dscp\" = \"tcp_flags\"",
            "fields: `ig_md.lkp.dscp` cannot be `tcp_flags`: it has 6 bits, not 12",
        ),
        (
            "\"ig_md.lkp.sport\" = \"src_port\"",
            "\"ig_md.lkp.sport\" = \"dst_port\"",
            "both `ig_md.lkp.sport` and `ig_md.lkp.dport` are `dst_port`",
        ),
        (
            "{ name = \"go_on\" }",
            "{ name = \"police\" }",
            "actions: `police` takes parameters that nothing fills: `meter`",
        ),
        (
            "{ name = \"toast\" }",
            "{ name = \"bread\" }",
            "actions: `bread` is no action of its rows; those are `go_on`, `toast`, `police`",
        ),
        (
            "{ name = \"toast\" }",
            "{ name = \"toast\", parameter = \"x\" }",
            "actions: `toast` has no parameter `x`; it has none",
        ),
        (
            "stage = \"policy\"",
            "stage = \"words\"",
            "no action of its rows is `set`",
        ),
        (
            "stage = \"policy\"",
            "stage = \"other\"",
            "no table plays the stage `policy`",
        ),
        (
            "short_header = false",
            "short_header = true",
            "parser.short_header: is true although",
        ),
    ];
    for (from, to, wanted) in cases {
        let message = error(FOREIGN, Some(&changed(FOREIGN_MAPPING, from, to)));
        assert!(message.contains(wanted), "{message} does not say {wanted}");
    }
    let twice =
        format!("{FOREIGN_MAPPING}\n[[table]]\ntable = \"SwitchIngress.fw.rules\"\nstage = \"guard\"\n");
    assert!(error(FOREIGN, Some(&twice)).contains("is there twice"));
    let number = Mapping::from_toml("parser = 3").unwrap_err().to_string();
    assert!(
        number.contains("expected a section: [parser], with facts"),
        "{number}"
    );
    let shapes = [
        (
            "priority_max = 16777215",
            "priority_max = 0",
            "priority_max: is not between 1 and 2147483647",
        ),
        (
            "priority_max = 16777215",
            "priority_max = 2147483648",
            "priority_max: is not between",
        ),
        (
            "= \"ether_type\"",
            "= \"ether_tipe\"",
            "unknown variant `ether_tipe`",
        ),
        ("[parser]", "[parsers]", "unknown field `parsers`"),
        ("allow = { name", "allow = { named", "unknown field `named`"),
        (
            "unreadable = false\n",
            "unread = false\n",
            "unknown field `unread`",
        ),
        (
            "{ name = \"go_on\" }",
            "\"go_on\"",
            "expected a table such as { name = \"drop\" }",
        ),
    ];
    for (from, to, wanted) in shapes {
        let message = Mapping::from_toml(&changed(FOREIGN_MAPPING, from, to))
            .expect_err(to)
            .to_string();
        assert!(message.contains(wanted), "{message} does not say {wanted}");
    }
}

#[test]
fn names_of_a_device_do_no_harm_to_a_terminal() {
    let text = changed(ACL, "alias: \"ipv4_table\"", "alias: \"\\033[2Jipv4\"");
    let text = changed(&text, "name: \"tcp_flags\"", "name: \"\\033]0;x\\007\"");
    let message = error(&text, None);
    assert!(
        message.contains("\\u{1b}[2Jipv4") && message.contains("\\u{1b}]0;x\\u{7}"),
        "{message}"
    );
    assert!(!message.contains('\u{1b}') && !message.contains('\u{7}'));
}
