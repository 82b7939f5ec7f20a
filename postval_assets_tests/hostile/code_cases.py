"""Checkpoints that ask for code by name, and names that look so and are harmless.

Here: names of every family. Not here: the instructions that make or call something (instruction_cases.py).
"""

from __future__ import annotations

import functools
import re
import sys

from postval_assets_tests.hostile.canary import SONG
from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.checkpoint_bytes import (
    BUILD,
    NONE,
    START,
    STOP,
    call,
    file_of,
    fraction,
    group,
    listed,
    mapping,
    name,
    number,
    storage,
    text,
    writes,
)

INERT = "alpaca_trading.config.Config"
COMMAND = f"echo {SONG} > {SONG}"
SOURCE = f"open('{SONG}', 'w').write('{SONG}')"

# What would be called, by the family of names it belongs to: (name, arguments).
ASKED: dict[str, tuple[tuple[str, tuple[bytes, ...]], ...]] = {
    "operating system": (
        ("os.system", (text(COMMAND),)),
        ("os.popen", (text(COMMAND),)),
        ("os.execv", (text("/bin/sh"), listed(text("sh"), text("-c"), text(COMMAND)))),
        ("os.remove", (text("data"),)),
        ("os.putenv", (text("PATH"), text("."))),
        ("posix.system", (text(COMMAND),)),
        ("nt.system", (text(COMMAND),)),
        ("shutil.rmtree", (text("."),)),
        ("pty.spawn", (text("/bin/sh"),)),
        ("signal.raise_signal", (number(9),)),
        ("ctypes.CDLL", (text("libc.so.6"),)),
        ("pathlib.Path", (text("/etc/passwd"),)),
    ),
    "builtins": (
        ("builtins.exec", (text(SOURCE),)),
        ("builtins.eval", (text(SOURCE),)),
        ("builtins.compile", (text(SOURCE), text(SONG), text("exec"))),
        ("builtins.__import__", (text("os"),)),
        ("builtins.open", (text(SONG), text("w"))),
        ("builtins.getattr", (name("collections.OrderedDict"), text("__init__"))),
        ("builtins.setattr", (name("collections.OrderedDict"), text("a"), NONE)),
        ("builtins.breakpoint", ()),
        ("builtins.bytearray", (number(2**40),)),
        ("builtins.type", (text("A"), group(), mapping({}))),
        ("__builtin__.eval", (text(SOURCE),)),
        ("__builtin__.apply", (name("__builtin__.eval"), group(text(SOURCE)))),
        ("builtins.exit", (number(0),)),
    ),
    "subprocess and network": (
        ("subprocess.Popen", (text(COMMAND),)),
        ("subprocess.check_output", (listed(text("sh"), text("-c"), text(COMMAND)),)),
        ("socket.create_connection", (group(text("127.0.0.1"), number(9)),)),
        ("urllib.request.urlopen", (text("http://127.0.0.1:9/"),)),
        ("webbrowser.open", (text("http://127.0.0.1:9/"),)),
        ("asyncio.create_subprocess_shell", (text(COMMAND),)),
        ("multiprocessing.Process", ()),
    ),
    "interpreter": (
        ("sys.exit", (number(0),)),
        ("sys.settrace", (NONE,)),
        ("importlib.import_module", (text("os"),)),
        ("runpy.run_path", (text("a.py"),)),
        ("runpy._run_code", (text(SOURCE), mapping({}))),
        ("code.interact", ()),
        ("timeit.timeit", (text(SOURCE),)),
        ("cProfile.run", (text(SOURCE),)),
        ("pdb.run", (text(SOURCE),)),
        ("types.CodeType", ()),
        ("types.FunctionType", ()),
        ("marshal.loads", (text("a"),)),
        ("pickle.loads", (text("a"),)),
        ("_pickle.loads", (text("a"),)),
        ("logging.config.dictConfig", (mapping({}),)),
        ("pip.main", (listed(text("install"), text("a")),)),
    ),
    "chains": (
        ("operator.attrgetter", (text("system"),)),
        ("operator.methodcaller", (text("system"), text(COMMAND))),
        ("functools.partial", (name("torch.Size"), group())),
        ("functools.reduce", (name("torch.Size"), listed())),
        ("itertools.chain", ()),
        ("codecs.decode", (text("a"), text("rot13"))),
        ("_codecs.encode", (text("a"), text("latin1"))),
        ("copyreg._reconstructor", (name("torch.Size"), name("torch.Size"), NONE)),
        ("copy_reg._reconstructor", (name("torch.Size"), name("torch.Size"), NONE)),
        ("copyreg.__newobj__", (name("torch.Size"),)),
        ("collections.Counter", ()),
        ("collections.defaultdict", (name("torch.Size"),)),
    ),
    "inside torch": (
        ("torch.load", (text("a.pt"),)),
        ("torch.hub.load", (text("a/b"), text("c"))),
        ("torch.hub.load_state_dict_from_url", (text("http://127.0.0.1:9/"),)),
        ("torch.jit.load", (text("a.pt"),)),
        ("torch.jit.CompilationUnit", (text("def f(): pass"),)),
        ("torch.storage._load_from_bytes", (text("a"),)),
        ("torch.serialization.load", (text("a.pt"),)),
        ("torch.serialization.add_safe_globals", (listed(),)),
        ("torch._C._cuda_init", ()),
        ("torch._C.PyTorchFileReader", (text("a.pt"),)),
        ("torch.classes.load_library", (text("a.so"),)),
        ("torch.ops.load_library", (text("a.so"),)),
        ("torch.utils.cpp_extension.load_inline", (text("a"), text("b"))),
        ("torch.package.PackageImporter", (text("a.pt"),)),
        ("torch.multiprocessing.spawn", (name("torch.Size"),)),
        ("torch.Tensor", (number(2**30),)),
        ("torch.FloatTensor", (number(2**30),)),
        ("torch.storage.UntypedStorage", (number(2**40),)),
        ("torch.nn.parameter.Parameter", ()),
        ("torch._utils._rebuild_tensor", (storage(), number(0), group(number(2)), group(number(1)))),
        ("torch._utils._rebuild_device_tensor_from_numpy", ()),
        ("torch._tensor._rebuild_from_type_v2", (name("torch.Size"), name("torch.Size"), group(), NONE)),
        ("torch._utils._rebuild_wrapper_subclass", ()),
        ("torch.nested._internal.nested_tensor.NestedTensor", ()),
    ),
    "numpy and pandas": (
        ("numpy.core.multiarray._reconstruct", ()),
        ("numpy.core.multiarray.scalar", ()),
        ("numpy.load", (text("a.npy"),)),
        ("numpy.memmap", (text(SONG),)),
        ("numpy.f2py.crackfortran.myeval", (text(SOURCE),)),
        ("pandas.read_pickle", (text("a.pkl"),)),
        ("pandas.eval", (text(SOURCE),)),
    ),
    "this project": (
        ("postval_assets_tests.hostile.canary.sing", (text(SONG),)),
        ("postval_assets.io.warehouse.Warehouse", (text("warehouse.duckdb"),)),
        ("postval_assets.core.torch_file.InertRecord", ()),
    ),
    "allow-listed prefix": (
        ("alpaca_trading..os.system", (text(COMMAND),)),
        ("alpaca_trading_evil.Config", ()),
        ("alpaca.Config", ()),
        ("Alpaca_Trading.Config", ()),
        ("os.alpaca_trading.system", (text(COMMAND),)),
        ("alpaca_trading/../os.system", (text(COMMAND),)),
        ("alpaca_trading.os system.x", ()),
        (" alpaca_trading.Config", ()),
        ("alpaca_trading.a\x1b[2J.Config", ()),
        ("alpaca_trading.\\x6fs.system", (text(COMMAND),)),
    ),
}


def _asking(full: str, arguments: tuple[bytes, ...]) -> bytes:
    return file_of(top={"config": call(full, *arguments)})


def _named(full: str) -> str:
    """The name as a message shows it, as a regular expression."""
    return "asks for " + re.escape(ascii(full)[1:-1])


def _asked_cases() -> list[Case]:
    return [
        Case(
            f"asks for {full!a}",
            f"pickle: {family}",
            writes(functools.partial(_asking, full, arguments)),
            Outcome.REFUSED,
            _named(full),
        )
        for family, names in ASKED.items()
        for full, arguments in names
    ]


def _harmless_cases() -> list[Case]:
    """Names below an allowed prefix are records without code: whatever they are called, they are read."""
    attack = call("alpaca_trading.os.system", text(COMMAND))
    made = (
        ("a record called os.system", {"config": attack}, "read: version 2.3.0"),
        (
            "a record with a method for a field",
            {
                "config": call(INERT) + mapping({"fields": NONE, "activation": text("tanh")}) + BUILD,
                "activation": None,
            },
            "activation tanh NAMED",
        ),
        (
            "a record with __class__ for a field",
            {"config": call(INERT) + mapping({"__class__": NONE}) + BUILD},
            "activation relu",
        ),
        ("a record as a key", {"config": mapping([(call(INERT), NONE)])}, "read"),
        (
            "a device that this machine lacks",
            {"config": call("torch.device", text("cuda"), number(99))},
            "read",
        ),
        ("floating numbers that are none", {"global_step": fraction(float("nan"))}, "step None"),
    )
    return [
        Case(
            f"harmless: {what}",
            "pickle: allow-listed prefix",
            writes(functools.partial(file_of, top=top)),
            Outcome.ACCEPTED,
            says,
        )
        for what, top, says in made
    ]


CASES = [*_asked_cases(), *_harmless_cases()]

# Payloads that a reader that trusts them runs on this system: they show that the canary can sing.
LIVE = tuple(
    START + call(full, *arguments) + STOP
    for full, arguments in (
        ("os.system", (text(COMMAND),)),
        ("builtins.exec", (text(SOURCE),)),
        ("builtins.eval", (text(SOURCE),)),
        ("timeit.timeit", (text("pass"), text(SOURCE), name("time.perf_counter"), number(1))),
        ("postval_assets_tests.hostile.canary.sing", (text(SONG),)),
    )
    if sys.platform != "win32" or full != "os.system"
)
