use super::*;

#[test]
fn the_built_in_models_are_sound() {
    for (name, text) in BUILT_IN {
        let model = StageModel::from_toml(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(model.name, name);
        assert!(!model.summary.is_empty(), "{name}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let text = StageModel::source("acl-ternary").expect("built in");
    let cases = [
        ("size = 255", "size = 0", "table.acl.size: is 0"),
        (
            "width = 8",
            "width = 9",
            "table.acl.keys.protocol.width: is not the width",
        ),
        ("match = \"ternary\"", "match = \"fuzzy\"", "fuzzy"),
        ("priority_max", "priority_most", "priority_most"),
        (
            "stage = \"policy\"",
            "stage = \"other\"",
            "no table plays the stage `policy`",
        ),
        (
            "    { field = \"later\", match = \"optional\", width = 1 },\n",
            "",
            "table.acl.keys: lack `later`",
        ),
        (
            "field = \"protocol\", match = \"ternary\"",
            "field = \"protocol\", match = \"exact\"",
            "table.acl.keys.protocol.match: is `exact`",
        ),
        ("name = \"acl-ternary\"", "name = \"\"", "name: is empty"),
    ];
    for (from, to, message) in cases {
        assert!(text.contains(from), "{from}");
        let error = StageModel::from_toml(&text.replacen(from, to, 1))
            .expect_err(to)
            .to_string();
        assert!(error.contains(message), "{error} does not say {message}");
    }
}
