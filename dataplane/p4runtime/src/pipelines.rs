//! Descriptions of P4 programs that Portcullis knows: mappings, written from the programs' sources.

/// Name and text of each description.
const KNOWN: [(&str, &str); 3] = [
    ("pins-tor", include_str!("../pipelines/pins-tor.toml")),
    (
        "pins-fabric-border-router",
        include_str!("../pipelines/pins-fabric-border-router.toml"),
    ),
    ("vendor", include_str!("../pipelines/vendor.toml")),
];

/// The text of a description.
pub fn source(name: &str) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}

/// The names of the descriptions.
pub fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|(name, _)| *name)
}

/// All of them, as a page of documentation.
pub fn describe() -> String {
    let mut text = "# Pipeline descriptions

Printed by `portcullis docs pipelines`. A description is a [mapping](p4runtime.md#mappings) of a P4 program, written from its source:
those of PINS are public, and `vendor` is `p4/vendor.p4`. Name one where a mapping file goes: `mapping = \"pins-tor\"` in a `[[target]]`, or `--mapping pins-tor`. To change one, save it as
a file of your own and name that.

All of these are [partial points](p4runtime.md#partial-points): they deny a part of what the policy denies.
"
    .to_string();
    for (name, source) in KNOWN {
        text += &format!("\n## {name}\n\n```toml\n{}\n```\n", source.trim());
    }
    text
}
