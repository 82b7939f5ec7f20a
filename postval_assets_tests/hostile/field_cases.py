"""Checkpoints whose facts are of a strange type, too large, or text that acts on what shows it.

Here: the checkpoint's own keys and its configuration. Not here: tensors (tensor_cases.py), bombs (cost_cases.py).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.checkpoint_bytes import (
    BUILD,
    FALSE,
    NONE,
    REDUCE,
    TRUE,
    call,
    file_of,
    fraction,
    group,
    listed,
    mapping,
    name,
    number,
    ordered,
    storage,
    tensor,
    text,
    writes,
)
from postval_assets_tests.hostile.code_cases import INERT

ESCAPES = "\x1b]0;owned\x07\x1b[2J"
HTML = "<script>alert(1)</script>"
SQL = "'; DROP TABLE deployment_decisions; --"
BACKWARDS = "\u202egnidart"
_NAMES = [f"f{n}" for n in range(53)]
_TENSOR = tensor(storage("1"), (2,))

Top = Mapping[str, bytes | None]


def _names(*changed: bytes) -> bytes:
    return listed(*changed, *(text(found) for found in _NAMES[len(changed) :]))


def _config(value: bytes) -> Top:
    return {"activation": None, "config": value}


def _fields(**fields: bytes) -> bytes:
    return call(INERT) + mapping(fields) + BUILD


_REFUSED: tuple[tuple[str, Top, str], ...] = (
    ("no policy", {"policy_state_dict": None}, "no policy_state_dict"),
    ("an empty policy", {"policy_state_dict": mapping({})}, "no policy_state_dict"),
    ("a policy that is a list", {"policy_state_dict": listed(_TENSOR)}, "no policy_state_dict"),
    ("a policy that is a record", {"policy_state_dict": call(INERT)}, "no policy_state_dict"),
    ("a policy that is a tensor", {"policy_state_dict": _TENSOR}, "no policy_state_dict"),
    (
        "a policy that hides its items",
        {"policy_state_dict": ordered() + mapping({"items": NONE}) + BUILD},
        "sets attributes of a dict",
    ),
    ("a version that is a number", {"model_version": fraction(2.3)}, "model_version is 2.3"),
    ("a version that is a tensor", {"model_version": _TENSOR}, "model_version is a Tensor"),
    ("a version with terminal codes", {"model_version": text(ESCAPES)}, "printable characters"),
    ("a version of HTML", {"model_version": text(HTML)}, "is not known"),
    ("a version of SQL", {"model_version": text(SQL)}, "is not known"),
    ("a version that climbs", {"model_version": text("../../2.3.0")}, "is not known"),
    ("a version with a NUL", {"model_version": text("2.3.0\0")}, "printable characters"),
    ("a version of the future", {"model_version": text("99.0.0")}, "is not known"),
    ("a window of nothing", {"window": number(0)}, "window is 0"),
    ("a negative window", {"window": number(-100)}, "window is -100"),
    ("a window of two billion", {"window": number(2**31 - 2)}, "window is 2147483646"),
    ("a window beyond 64 bits", {"window": number(2**64)}, "a number of 65 bits"),
    ("a window that is true", {"window": TRUE}, "window is True"),
    ("a window that is a fraction", {"window": fraction(20.0)}, "window is 20.0"),
    ("a window that is no number", {"window": fraction(float("nan"))}, "window is nan"),
    ("a window that is a text", {"window": text(ESCAPES)}, r"window is '.x1b"),
    ("a count of features that does not fit", {"n_features": number(54)}, "n_features is 54"),
    ("a negative count of actions", {"n_actions": number(-3)}, "n_actions is -3"),
    ("inputs that are a tensor", {"obs_dim": _TENSOR}, "obs_dim is a Tensor"),
    ("inputs that are infinite", {"obs_dim": fraction(float("inf"))}, "obs_dim is inf"),
    ("an activation that is code", {"activation": text("__import__('os').system")}, "is not known"),
    ("an activation of HTML", {"activation": text(HTML)}, "is not known"),
    ("an activation that is a number", {"activation": number(3)}, "activation 3 is not known"),
    (
        "an activation of a record of a record",
        _config(_fields(activation=call(INERT, call(INERT, text("relu"))))),
        "activation a InertRecord",
    ),
    (
        "an activation of a configuration in terminal codes",
        _config(_fields(activation=text(ESCAPES))),
        "is not known",
    ),
    ("a feature set with terminal codes", {"feature_set": text(ESCAPES)}, "printable characters"),
    ("a feature set that is a list", {"feature_set": listed(text("a"))}, "feature_set is a list"),
    ("a feature set of two hundred letters and one", {"feature_set": text("a" * 201)}, "1 to 200"),
    ("a feature set without letters", {"feature_set": text("")}, "1 to 200"),
    ("a feature set that turns its direction", {"feature_set": text(BACKWARDS)}, "printable characters"),
    ("names of features that are a dict", {"feature_names": mapping({"a": NONE})}, "feature_names is a dict"),
    ("names of features that are a text", {"feature_names": text("a" * 53)}, "list of 53 names"),
    (
        "names of features that are numbers",
        {"feature_names": listed(*map(number, range(53)))},
        "list of 53 names",
    ),
    ("names of features that are lists", {"feature_names": listed(*[listed()] * 53)}, "list of 53 names"),
    ("names of features that are a tensor", {"feature_names": _TENSOR}, "feature_names is a Tensor"),
    ("names of features that are a record", {"feature_names": call(INERT)}, "feature_names is a InertRecord"),
    ("names of features with terminal codes", {"feature_names": _names(text(ESCAPES))}, "list of 53 names"),
    (
        "names of features with a lone surrogate",
        {"feature_names": _names(text("\udc80"))},
        "list of 53 names",
    ),
    ("names of features twice", {"feature_names": _names(text("f1"))}, "52 of them different"),
    ("too few names of features", {"feature_names": listed(text("a"))}, "1 names"),
    ("a trader's version with terminal codes", {"min_trader_version": text(ESCAPES)}, "printable characters"),
    (
        "a trader's version that is a device",
        {"min_trader_version": call("torch.device", text("cpu"))},
        "is a device",
    ),
    (
        "actions that contradict",
        {"action_meanings": listed(text("SELL"), text("BUY"), text("HOLD"))},
        "action 0 is called 'SELL'",
    ),
    (
        "actions that contradict in terminal codes",
        {"action_meanings": listed(text("SELL" + HTML), text("BUY"), text("SELL"))},
        "action 0 is called",
    ),
)

_ACCEPTED: tuple[tuple[str, Top, str], ...] = (
    ("a step below nothing", {"global_step": number(-5)}, "step None"),
    ("a step of 64 bits", {"global_step": number(2**63)}, "step None"),
    ("the largest step that is kept", {"global_step": number(2**63 - 1)}, "step 9223372036854775807"),
    ("a step that is false", {"global_step": FALSE}, "step None"),
    ("a step that is a text", {"global_step": text(ESCAPES)}, "step None"),
    ("a step that is a tensor", {"global_step": _TENSOR}, "step None"),
    ("a configuration that is a list", _config(listed(number(1))), "activation relu ASSUMED"),
    ("a configuration that is a text", _config(text(ESCAPES)), "activation relu ASSUMED"),
    (
        "a configuration of the wrong state",
        _config(call(INERT) + text("state") + BUILD),
        "activation relu ASSUMED",
    ),
    ("a configuration that is its class", _config(name(INERT)), "activation relu ASSUMED"),
    (
        "a configuration with numbers for fields",
        _config(call(INERT) + mapping([(number(1), number(2))]) + BUILD),
        "ASSUMED",
    ),
    (
        "a configuration called with a dict",
        _config(call(INERT, mapping({"activation": text("elu")}))),
        "activation relu ASSUMED",
    ),
    (
        "a configuration that hides methods",
        _config(_fields(fields=NONE, __init__=NONE, activation=text("elu"))),
        "activation elu NAMED",
    ),
    (
        "a configuration of slots",
        _config(call(INERT) + group(NONE, mapping({"activation": text("elu")})) + BUILD),
        "activation elu NAMED",
    ),
    (
        "an activation that is an enum's",
        _config(_fields(activation=call(INERT, text("GELU")))),
        "activation gelu NAMED",
    ),
    ("a feature set of HTML", {"feature_set": text(HTML)}, "read"),
    ("a feature set of SQL", {"feature_set": text(SQL)}, "read"),
    ("names of features of HTML and SQL", {"feature_names": _names(text(HTML), text(SQL))}, "read"),
    ("a trader's version of HTML", {"min_trader_version": text(HTML)}, "read"),
    ("actions in terminal codes", {"action_meanings": listed(*[text(ESCAPES)] * 3)}, "read"),
    (
        "actions of which one is a million letters",
        {"action_meanings": listed(text("a" * 10**6), NONE, number(1))},
        "read",
    ),
    ("actions that are a record", {"action_meanings": call(INERT)}, "read"),
    ("actions by a dict of tensors", {"action_meanings": mapping([(number(0), _TENSOR)])}, "read"),
    (
        "a training window of terminal codes",
        {"train_start": text(ESCAPES), "train_end": text(HTML)},
        r"start is .*x1b",
    ),
    ("a training window of tensors", {"train_start": _TENSOR}, "start is .a Tensor"),
    (
        "a training window before time",
        {"train_start": text("0001-01-01T00:00:00+23:59")},
        "treated as unknown",
    ),
    ("a training window after time", {"train_end": text("9999-12-31T23:59:59-23:59")}, "treated as unknown"),
    (
        "a training window that ends before it starts",
        {"train_start": text("2024-01-01"), "train_end": text("2023-01-01")},
        "before it starts",
    ),
    (
        "a training window of numbers beyond everything",
        {"train_start": number(2**2000), "train_end": fraction(float("nan"))},
        "a huge number",
    ),
    (
        "keys that are not the checkpoint's",
        {HTML: NONE, ESCAPES: NONE, "__class__": NONE, "": NONE, "\udc80": NONE},
        "read",
    ),
    ("an optimizer that is a number", {"optimizer_state_dict": number(1)}, "read"),
    ("a set", {"more": name("__builtin__.set") + group(listed(number(1))) + REDUCE}, "read"),
)

CASES = [
    *(
        Case(f"field: {what}", "fields", writes(functools.partial(file_of, top=top)), Outcome.REFUSED, says)
        for what, top, says in _REFUSED
    ),
    *(
        Case(f"field: {what}", "fields", writes(functools.partial(file_of, top=top)), Outcome.ACCEPTED, says)
        for what, top, says in _ACCEPTED
    ),
]
