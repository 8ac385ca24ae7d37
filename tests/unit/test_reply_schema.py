"""How much of a schema a reply obeys."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import BadConfig
from pipelines.reply_schema import load_schema, load_validator
from tests.adapter_kit import params_of, wiring

GOOD = {"answer": "a", "citations": ["d"], "tone": "warm", "next_step": "b"}


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    return wiring(tmp_path_factory.mktemp("home"), params_of())


@pytest.fixture(scope="module")
def house(ports):
    return load_schema(params_of().generate.reply_schema, ports)


@pytest.mark.parametrize(
    ("reply", "met"),
    [
        (GOOD, 5),  # four properties, and no other keys
        ({**GOOD, "tone": "rude"}, 4),
        ({**GOOD, "tone": "rude", "extra": 1}, 3),
        ({"answer": "a", "citations": "d"}, 2),  # the answer, and no other keys
        ({}, 1),
    ],
)
def test_style_is_the_share_of_demands_met(house, reply, met):
    assert house.style(reply) == met / 5
    assert house.valid(reply) == (met == 5)


@pytest.mark.parametrize("reply", [None, "text", ["answer"], 5])
def test_what_is_no_object_has_no_style(house, reply):
    assert house.style(reply) == 0 and not house.valid(reply)


@given(st.dictionaries(st.sampled_from([*GOOD, "more"]), st.one_of(st.text(max_size=3), st.lists(st.text(max_size=2)))))
def test_full_style_is_validity(house, reply):
    assert 0 <= house.style(reply) <= 1
    assert (house.style(reply) == 1) == house.valid(reply)


def test_optional_keys_open_objects_and_references(tmp_path, ports):
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/short"}, "b": {"type": "integer"}},
        "required": ["a"],
        "$defs": {"short": {"type": "string", "maxLength": 2}},
    }
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    found = load_schema(str(file), ports)
    assert found.style({"a": "xy", "more": 1}) == 1  # b may be absent, other keys may be there
    assert found.style({"a": "xyz", "b": 1}) == 0.5
    assert "$defs" in found.text


def test_a_schema_without_properties_is_obeyed_or_not(tmp_path, ports):
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object", "minProperties": 1}')
    found = load_schema(str(file), ports)
    assert (found.style({"a": 1}), found.style({}), found.style("x")) == (1, 0, 0)


@pytest.mark.parametrize("text", ["true", "[1]", '{"type": "thing"}', "{"])
def test_what_is_no_schema_is_named(tmp_path, ports, text):
    file = tmp_path / "schema.json"
    file.write_text(text)
    with pytest.raises(BadConfig, match="which is no JSON schema"):
        load_validator(str(file), ports)
    assert load_validator(None, ports) is None
