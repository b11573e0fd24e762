"""Reads a pickle without `pickle`: a small stack machine that can only build plain data.

Why it is safe. A pickle is a program. Its danger lies in three kinds of opcodes: those that look
a name up (GLOBAL, STACK_GLOBAL, INST, EXT), those that call what was found (REDUCE, NEWOBJ, OBJ),
and BUILD, which sets attributes of an object. Here a name is never imported: it is looked up as
text in a closed table that the caller passes, and what comes back is an `Inert` object of this
package that holds a builder of ours. A call works only on such an object, so only our builders
ever run, and each checks its arguments. BUILD only works on our own `Inert` objects; on a dict its
state is dropped. Every other opcode makes None, numbers, text, bytes, lists, tuples, dicts and
sets. Everything outside the table ends in a WeightError that names it.

Why it is bounded. Opcodes are decoded by the table of the standard library's `pickletools`, which
reads lengths against the bytes that are there. The number of opcodes is capped; whatever copies
data that the file may name again and again spends a budget of one file length; arrays are views of
the file's bytes, so a claimed shape costs nothing; keys are text and small integers, which cannot
be made to collide; nothing walks a value without a limit on depth and count.
"""

import codecs
import io
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MOST_OPCODES = 1_000_000  # a StyleGAN at 1024 px takes about 40,000

OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
# Opcodes whose decoded argument is the value itself.
LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)


class WeightError(ValueError):
    """A weight file that cannot be used: one line that says what was found and what to do."""


def shorten(text: str) -> str:
    """Text out of a file, made fit for a message: one line of ASCII, at most 80 characters."""
    text = ascii(text[:80])[1:-1]
    return text if len(text) <= 80 else text[:77] + "..."


class Inert:
    """Stands for an object that the file describes; holds data and does nothing by itself."""

    def call(self, machine: "Machine", arguments: tuple[Any, ...]) -> Any:
        """What REDUCE and NEWOBJ get when the file calls this object. WeightError if it may not."""
        raise WeightError(f"calls a {type(self).__name__}, which is not a function; refused")

    def build(self, machine: "Machine", state: Any) -> None:
        """Takes the state that BUILD gives to this object. WeightError if it takes none."""
        raise WeightError(f"changes the attributes of a {type(self).__name__}; refused")


Builder = Callable[["Machine", tuple[Any, ...]], Any]


class Global(Inert):
    """A name of the closed table, with the builder of ours that a call of it runs."""

    def __init__(self, name: str, builder: Builder):
        self.name = name
        self.builder = builder

    def call(self, machine: "Machine", arguments: tuple[Any, ...]) -> Any:
        """Runs the builder."""
        return self.builder(machine, arguments)


class Machine:
    """The stack, the memo and the budget of one pickle.

    `builders` is the closed table, from "module name" to a builder; `advice` ends the message about
    a name that is not in it. `persistent` turns a persistent id into an object, if the format has
    them. `budget` is how many bytes and items the builders may copy: one file length.
    """

    def __init__(
        self,
        builders: Mapping[str, Builder],
        advice: str,
        budget: int,
        persistent: Callable[[Any], Any] | None = None,
    ):
        self.builders = builders
        self.advice = advice
        self.budget = budget
        self.persistent = persistent
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each MARK
        self.memo: dict[int, Any] = {}

    def spend(self, amount: int) -> None:
        """Takes `amount` from the budget. WeightError: the file repeats itself to use up memory."""
        self.budget -= amount
        if self.budget < 0:
            raise WeightError("copies the same data over and over to use up memory; refused")

    def encode(self, text: Any) -> bytes:
        """Bytes that an old protocol wrote as latin-1 text; bytes come back as they are."""
        if not isinstance(text, str):
            return bytes_like(text)
        self.spend(len(text))
        return text.encode("latin-1")

    def find(self, module: Any, name: Any) -> Global:
        """The table's entry of this name; never imports. WeightError: not in the table."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise WeightError("looks up a name that is not text; refused")
        builder = self.builders.get(f"{module} {name}")
        if builder is None:
            raise WeightError(
                f"asks for '{shorten(module)}.{shorten(name)}', which plain weights do not need: "
                f"the file wants to run code and was refused; {self.advice}"
            )
        return Global(f"{module} {name}", builder)

    def items(self) -> list[Any]:
        """Pops everything above the last MARK, and the MARK."""
        above, self.stack = self.stack, self.outer.pop()
        return above

    def fill(self, target: Any, keys: list[Any], values: list[Any]) -> None:
        """Sets items of a dict (`values` as many as `keys`)."""
        if type(target) is not dict:
            raise WeightError(f"sets items of a {type(target).__name__}; refused")
        for key, value in zip(map(checked_key, keys), values, strict=True):
            target[key] = value

    def extend(self, target: Any, values: list[Any]) -> None:
        """Appends to a list."""
        if type(target) is not list:
            raise WeightError(f"appends to a {type(target).__name__}; refused")
        target.extend(values)

    def step(self, name: str, argument: Any) -> None:
        """Runs one opcode. WeightError: not one that plain data needs; IndexError: empty stack."""
        stack = self.stack
        if name in LITERALS:
            stack.append(bytes(argument) if name == "BYTEARRAY8" else argument)
            return
        match name:
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = stack[-1]
            case "MARK":
                self.outer.append(stack)
                self.stack = []
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise WeightError("is damaged: a tuple takes more than the stack holds")
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE" | "LIST" | "FROZENSET" | "DICT":
                self.collect(name)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_SET":
                stack.append({} if name == "EMPTY_DICT" else [] if name == "EMPTY_LIST" else set())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.fill(stack[-1], [key], [value])
            case "SETITEMS":
                pairs = self.items()
                self.fill(self.stack[-1], pairs[::2], pairs[1::2])
            case "APPEND":
                value = stack.pop()
                self.extend(stack[-1], [value])
            case "APPENDS":
                values = self.items()
                self.extend(self.stack[-1], values)
            case "ADDITEMS":
                values = self.items()
                if type(self.stack[-1]) is not set:
                    raise WeightError("adds items to something that is not a set; refused")
                self.stack[-1].update(map(checked_key, values))
            case "GLOBAL":
                stack.append(self.find(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(self.find(module, attribute))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                if not isinstance(function, Inert) or type(arguments) is not tuple:
                    raise WeightError(f"calls a {type(function).__name__}; refused")
                stack.append(function.call(self, arguments))
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if isinstance(target, Inert):
                    target.build(self, state)
                elif type(target) is not dict:  # of an OrderedDict: torch's _metadata, dropped
                    raise WeightError(f"sets attributes of a {type(target).__name__}; refused")
            case "BINPERSID" if self.persistent:
                stack.append(self.persistent(stack.pop()))
            case "POP":
                if stack:
                    stack.pop()
                else:
                    self.items()
            case "POP_MARK":
                self.items()
            case "DUP":
                stack.append(stack[-1])
            case "INST":
                self.find(*argument.split(" ", 1))  # names a foreign class in its message
                raise WeightError("uses the old opcode INST, which plain weights do not need")
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                raise WeightError(
                    f"uses the pickle opcode {name}, which plain weights do not need; {self.advice}"
                )

    def collect(self, name: str) -> None:
        """Replaces what lies above the last MARK by one tuple, list, frozenset or dict."""
        items = self.items()
        if name == "TUPLE":
            self.stack.append(tuple(items))
        elif name == "LIST":
            self.stack.append(items)
        elif name == "FROZENSET":
            self.stack.append(frozenset(map(checked_key, items)))
        else:
            self.stack.append({})
            self.fill(self.stack[-1], items[::2], items[1::2])


def bytes_like(value: Any) -> bytes:
    """`value` if it is bytes. WeightError otherwise (lists of objects end here)."""
    if not isinstance(value, bytes):
        raise WeightError(f"holds a {type(value).__name__} where the bytes of an array belong")
    return value


def checked_key(key: Any) -> str | int:
    """`key` if it is short text or a small integer: cheap to compare, and never made to collide."""
    if (isinstance(key, str) and len(key) < 256) or (isinstance(key, int) and abs(key) < 2**60):
        return key
    raise WeightError(
        f"uses a {type(key).__name__} as a key; only short text and small integers are read"
    )


def operations(stream: io.BytesIO) -> Iterator[tuple[str, Any]]:
    """Opcodes of one pickle with their arguments; leaves `stream` behind STOP."""
    while code := stream.read(1):
        opcode = OPCODES.get(code)
        if opcode is None:
            raise WeightError(f"is damaged: {code!r} is not a pickle opcode; get the file again")
        name, argument = opcode.name, opcode.arg
        if argument is None:
            yield name, None
            if name == "STOP":
                return
        elif name == "STRING":  # Python 2 wrote raw bytes so; pickletools insists on ASCII
            raw = pickletools.read_stringnl(stream, decode=False)
            yield name, codecs.escape_decode(raw)[0].decode("latin-1")  # pyright: ignore
        else:
            yield name, argument.reader(stream)
    raise WeightError("is cut short: the pickle ends before its STOP; get the file again")


def load(
    stream: io.BytesIO,
    builders: Mapping[str, Builder],
    advice: str,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The value of the pickle at the position of `stream`, built of plain data and `Inert` objects.

    Raises:
        WeightError: the pickle wants something that is not in `builders`, or is too large.
        ValueError, IndexError, KeyError, ...: damaged bytes (the caller makes one line of them).
    """
    start = stream.tell()
    budget = stream.seek(0, io.SEEK_END)
    stream.seek(start)
    machine = Machine(builders, advice, budget, persistent)
    for count, (name, argument) in enumerate(operations(stream)):
        if count > MOST_OPCODES:
            raise WeightError(f"has more than {MOST_OPCODES} pickle opcodes; not a weight file")
        machine.step(name, argument)
    return machine.stack.pop()
