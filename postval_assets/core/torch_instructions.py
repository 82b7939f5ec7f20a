"""The pickle inside a checkpoint, followed on paper before anything is loaded.

Here: what it asks for, what it would call with which arguments, and what that would cost. Nothing is made:
tuples, tensors and objects are stand-ins that know their size. Not here: the container (torch_container.py),
loading (torch_file.py), what the content means (checkpoint.py).

torch's ``weights_only`` keeps a file from running code. It does not keep it from asking for a terabyte, from
reaching into memory that no storage of the file covers, from hiding an object's methods behind attributes,
or from keeping the reader busy for hours with keys that collide and tuples that are shared a thousandfold.
So only what ``torch.save`` writes of dense tensors and plain values is let through, and within bounds.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from postval_assets.core.failures import Rejected
from postval_assets.core.torch_stand_ins import (
    STORAGE_BYTES,
    Dict,
    List,
    Made,
    Name,
    Storage,
    Tuple,
    are_whole,
    check_tensor,
    kind_of,
    number_shown,
    shown,
    tuple_of,
)

_PROTOCOL = 2
# A production checkpoint has some ten thousand.
_MAX_INSTRUCTIONS = 500_000
# torch goes through its lists of allowed names at each of these.
_MAX_CALLS = 50_000
_MAX_CLASSES = 200
# Numbers as keys can be chosen so that they all collide; a name's or a small number's hash cannot.
_MAX_ODD_KEYS = 1_000
_MAX_KEY_PARTS = 100
_SMALL_KEY = 2**31
_MAX_TEXT = 200
_MAX_NAMES_SHOWN = 3

_TYPES = frozenset(
    f"torch.{name}"
    for name in (
        *("float32", "float64", "float16", "bfloat16"),
        *("int64", "int32", "int16", "int8", "uint8", "bool"),
    )
)
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_ORDERED = "collections.OrderedDict"
_SETS = frozenset({"__builtin__.set", "builtins.set"})
_SIZE = "torch.Size"
_DEVICE = "torch.device"
# What torch.save writes for dense tensors. Narrower than torch's own list, which also builds sparse,
# quantized and meta tensors, tensor subclasses, and byte arrays of any size.
_TENSOR_MACHINERY = (
    frozenset({_TENSOR, _PARAMETER, _ORDERED, _SIZE, _DEVICE}) | _SETS | _TYPES | STORAGE_BYTES.keys()
)


def rehearse(
    instructions: bytes, storages: Mapping[str, int], allowed_prefixes: Iterable[str]
) -> frozenset[str]:
    """Follow a checkpoint's pickle to its end.

    Args:
        instructions: the pickle.
        storages: bytes of each storage in the file by its key.
        allowed_prefixes: packages whose classes are read as inert records.

    Returns:
        The names of those classes that it asks for.

    Raises:
        Rejected: it asks for anything but dense tensors of its own storages, plain values and such classes,
        which is named; it is damaged; or it would cost too much.
    """
    prefixes = tuple(f"{prefix.rstrip('.')}." for prefix in allowed_prefixes)
    if "." in prefixes:
        raise ValueError("an empty prefix would allow every class")
    rehearsal = _Rehearsal(storages, prefixes)
    try:
        for opcode, argument, position in pickletools.genops(instructions):
            step = _STEPS.get(opcode.name)
            if step is None:
                raise _foreign(instructions, f"uses {opcode.name}")
            if (opcode.name == "PROTO") != (position == 0):
                raise _foreign(instructions, "names its protocol late, twice or not at all")
            if position == 0 and argument != _PROTOCOL:
                raise _foreign(instructions, f"is of protocol {argument}")
            rehearsal.count()
            step(rehearsal, argument)
            if opcode.name == "STOP" and (position or 0) + 1 != len(instructions):
                raise Rejected("the checkpoint's instructions go on after their end")
    except (ValueError, IndexError, KeyError) as error:
        reason = str(error) or type(error).__name__
        raise Rejected(f"the checkpoint's instructions are damaged: {ascii(reason)[:120]}") from error
    return frozenset(rehearsal.classes)


def forbidden(name: str) -> Rejected:
    """The failure of a checkpoint that asks for this name."""
    return Rejected(
        f"the checkpoint asks for {ascii(name)[1:-1][:120]}: only dense tensors, plain values and "
        "classes of the allow-listed packages are read"
    )


class _Rehearsal:
    """The unpickler's stack, marks and memo, with stand-ins on them; a method for each group of instructions."""

    def __init__(self, storages: Mapping[str, int], prefixes: tuple[str, ...]) -> None:
        self.classes: set[str] = set()
        self._storages = storages
        self._prefixes = prefixes
        self._stack: list[object] = []
        self._marks: list[list[object]] = []
        self._memo: dict[object, object] = {}
        self._known: dict[str, Storage] = {}
        self._n_instructions = 0
        self._n_calls = 0
        self._n_arguments = 0
        self._n_odd_keys = 0

    def count(self) -> None:
        """One more instruction."""
        self._n_instructions += 1
        if self._n_instructions > _MAX_INSTRUCTIONS:
            raise Rejected(f"the checkpoint has more than {_MAX_INSTRUCTIONS} instructions")

    def _call(self, n_arguments: int = 0) -> None:
        """One more object, made of so many others: sharing makes a call cheap to write and dear to do."""
        self._n_calls += 1
        self._n_arguments += n_arguments
        if self._n_calls > _MAX_CALLS or self._n_arguments > _MAX_INSTRUCTIONS:
            raise Rejected(
                f"the checkpoint makes more than {_MAX_CALLS} objects, or of more than {_MAX_INSTRUCTIONS} parts"
            )

    def protocol(self, _: object) -> None:
        """Nothing is made."""

    def stop(self, _: object) -> None:
        result = self._stack.pop()
        if not isinstance(result, Dict):
            raise Rejected(f"the checkpoint holds {kind_of(result)}; expected a dict with policy_state_dict")

    # --- stack, marks, memo, plain values

    def value(self, value: object) -> None:
        self._stack.append(value)

    def mark(self, _: object) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[object]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def put(self, place: object) -> None:
        self._memo[place] = self._stack[-1]

    def get(self, place: object) -> None:
        self._stack.append(self._memo[place])

    # --- containers

    def empty_dict(self, _: object) -> None:
        self._stack.append(Dict())

    def empty_list(self, _: object) -> None:
        self._stack.append(List())

    def empty_tuple(self, _: object) -> None:
        self._stack.append(Tuple((), 1, 1))

    def tuple(self, _: object) -> None:
        # In two steps: the stack is another one after the mark.
        items = self._since_mark()
        self._stack.append(tuple_of(items))

    def short_tuple(self, n_items: int) -> None:
        items = [self._stack.pop() for _ in range(n_items)]
        self._stack.append(tuple_of(items[::-1]))

    def append(self, _: object) -> None:
        self._extend([self._stack.pop()])

    def appends(self, _: object) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, List):
            raise Rejected(f"the checkpoint appends to {kind_of(target)}; expected a list")
        target.items.extend(items)

    def set_item(self, _: object) -> None:
        value = self._stack.pop()
        self._set([self._stack.pop(), value])

    def set_items(self, _: object) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, Dict) or len(items) % 2:
            raise Rejected(f"the checkpoint sets items of {kind_of(target)}; expected pairs for a dict")
        for key in items[::2]:
            self._check_key(key)
            target.keys.append(key)

    def _check_key(self, key: object) -> None:
        """A key whose hash is cheap, or one of few."""
        if isinstance(key, str) or (isinstance(key, int) and -_SMALL_KEY <= key < _SMALL_KEY):
            return
        if isinstance(key, List | Dict):
            raise Rejected(f"the checkpoint uses {kind_of(key)} as a key; expected a name or a number")
        if isinstance(key, Tuple) and key.n_parts > _MAX_KEY_PARTS:
            raise Rejected(
                f"the checkpoint uses a tuple of {key.n_parts} parts as a key; at most {_MAX_KEY_PARTS} are read"
            )
        self._n_odd_keys += 1
        if self._n_odd_keys > _MAX_ODD_KEYS:
            raise Rejected(
                f"the checkpoint uses more than {_MAX_ODD_KEYS} keys that are neither names nor small numbers"
            )

    # --- names, calls and storages

    def name(self, argument: object) -> None:
        self._call()
        module, _, attribute = str(argument).rpartition(" ")
        name = f"{module}.{attribute}"
        if name not in _TENSOR_MACHINERY:
            parts = name.split(".")
            if not f"{module}.".startswith(self._prefixes) or not all(map(str.isidentifier, parts)):
                raise forbidden(name)
            self.classes.add(name)
            if len(self.classes) > _MAX_CLASSES or len(name) > _MAX_TEXT:
                raise Rejected(
                    f"the checkpoint asks for more than {_MAX_CLASSES} classes, or for one with a name "
                    f"of more than {_MAX_TEXT} letters"
                )
        self._stack.append(Name(name))

    def reduce(self, _: object) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, Name) or not isinstance(arguments, Tuple):
            raise Rejected(f"the checkpoint calls {kind_of(called)} with {kind_of(arguments)}")
        self._call(len(arguments.items))
        self._stack.append(self._result(called.name, arguments.items))

    def _result(self, name: str, arguments: Sequence[object]) -> object:
        match arguments:
            case _ if name in self.classes:
                return Made(name)
            case () if name == _ORDERED:
                return Dict(ordered=True)
            case (List() as members,) if name in _SETS:
                self._call(len(members.items))
                for member in members.items:
                    self._check_key(member)
                return Made("a set")
            case (Tuple(items=sizes) as shape,) if (
                name == _SIZE and len(sizes) < _MAX_TEXT and are_whole(sizes)
            ):
                return shape
            case (str(), *rest) if name == _DEVICE and are_whole(rest):
                return Made("a device")
            case (Made(kind="a tensor"), bool(), Dict()) if name == _PARAMETER:
                return arguments[0]
            case _ if name == _TENSOR:
                check_tensor(arguments)
                return Made("a tensor")
            case _:
                kinds = ", ".join(kind_of(argument) for argument in arguments[:6])
                raise Rejected(f"the checkpoint calls {name} with ({kinds}), which torch.save never does")

    def new(self, _: object) -> None:
        arguments, made = self._stack.pop(), self._stack.pop()
        if not isinstance(made, Name) or not isinstance(arguments, Tuple) or made.name not in self.classes:
            raise Rejected(
                f"the checkpoint makes a new {kind_of(made)} with {kind_of(arguments)}, which torch.save never does"
            )
        self._call(len(arguments.items))
        self._stack.append(Made(made.name))

    def build(self, _: object) -> None:
        self._call()
        state, made = self._stack.pop(), self._stack[-1]
        if isinstance(made, Made) and made.kind in self.classes:
            return
        keys = state.keys if isinstance(state, Dict) else None
        # Any other attribute would stand before the dict's own methods.
        if not (isinstance(made, Dict) and made.ordered and keys in ([], ["_metadata"])):
            what = kind_of(state) if keys is None else ", ".join(map(shown, keys[:4]))
            raise Rejected(
                f"the checkpoint sets attributes of {kind_of(made)} ({what}); expected only those of a "
                "configuration, and _metadata of a state dict"
            )

    def storage(self, _: object) -> None:
        self._call()
        match self._stack.pop():
            case Tuple(items=("storage", Name(name=kind), str(key), str(location), int(n_numbers))) if (
                kind in STORAGE_BYTES and not isinstance(n_numbers, bool) and len(location) <= _MAX_TEXT
            ):
                self._stack.append(self._stored(kind, key, n_numbers))
            case other:
                items = other.items if isinstance(other, Tuple) else (other,)
                asked = ", ".join(map(shown, items[:6]))
                raise Rejected(
                    f"the checkpoint asks for something outside itself ({asked}); expected a storage: its type, "
                    "key, place and length"
                )

    def _stored(self, kind: str, key: str, n_numbers: int) -> Storage:
        found = self._storages.get(key)
        if found is None:
            raise Rejected(f"the checkpoint has no storage {ascii(key)[:80]}, which a tensor of it uses")
        n_bytes = n_numbers * STORAGE_BYTES[kind]
        if not 0 <= n_bytes <= found:
            raise Rejected(
                f"the checkpoint's storage {ascii(key)[:80]} is stated with {number_shown(n_numbers)} numbers "
                f"({kind}); there are {found} bytes of it"
            )
        known = self._known.setdefault(key, Storage(kind, n_numbers))
        if (known.kind, known.n_numbers) != (kind, n_numbers):
            raise Rejected(
                f"the checkpoint states storage {ascii(key)[:80]} twice, with another type or length"
            )
        return known


def _foreign(instructions: bytes, what: str) -> Rejected:
    """Instructions of another pickler: said with the names that they ask for, so far as these can be read."""
    asked: list[str] = []
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(instructions):
            if opcode.name in {"GLOBAL", "INST"}:
                asked.append(".".join(str(argument).rsplit(" ", 1)))
            elif opcode.name == "STACK_GLOBAL":
                asked.append(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
            if len(asked) + len(texts) > _MAX_CALLS:
                break
    except (ValueError, IndexError, KeyError) as error:
        asked.append(f"damaged: {error}")
    unknown = [name for name in dict.fromkeys(asked) if name not in _TENSOR_MACHINERY]
    names = ", ".join(ascii(name)[1:-1][:80] for name in unknown[:_MAX_NAMES_SHOWN])
    return Rejected(
        f"the checkpoint's pickle {what}, which torch.save (protocol 2) never writes"
        + (f"; it asks for {names}" if names else "")
    )


_STEPS: Mapping[str, Callable[[_Rehearsal, Any], None]] = {
    "PROTO": _Rehearsal.protocol,
    "STOP": _Rehearsal.stop,
    **dict.fromkeys(
        ("NONE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"),
        _Rehearsal.value,
    ),
    "NEWTRUE": lambda rehearsal, _: rehearsal.value(value=True),
    "NEWFALSE": lambda rehearsal, _: rehearsal.value(value=False),
    "MARK": _Rehearsal.mark,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Rehearsal.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Rehearsal.get),
    "EMPTY_DICT": _Rehearsal.empty_dict,
    "EMPTY_LIST": _Rehearsal.empty_list,
    "EMPTY_TUPLE": _Rehearsal.empty_tuple,
    "TUPLE": _Rehearsal.tuple,
    "TUPLE1": lambda rehearsal, _: rehearsal.short_tuple(1),
    "TUPLE2": lambda rehearsal, _: rehearsal.short_tuple(2),
    "TUPLE3": lambda rehearsal, _: rehearsal.short_tuple(3),
    "APPEND": _Rehearsal.append,
    "APPENDS": _Rehearsal.appends,
    "SETITEM": _Rehearsal.set_item,
    "SETITEMS": _Rehearsal.set_items,
    "GLOBAL": _Rehearsal.name,
    "REDUCE": _Rehearsal.reduce,
    "NEWOBJ": _Rehearsal.new,
    "BUILD": _Rehearsal.build,
    "BINPERSID": _Rehearsal.storage,
}
