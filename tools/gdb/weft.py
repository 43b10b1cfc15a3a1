"""weft.py - fibers in gdb: source /path/to/weft.py

    weft fibers                  every fiber: id, tid, name, where it stands, what it waits for
    weft bt ID [ARGS]            the backtrace of a fiber; ARGS as for bt
    weft fiber ID apply COMMAND  any command (info locals, up, p variable) as if that fiber were the selected thread
    weft all bt [ARGS]           the backtrace of every fiber; any other command works, too
    weft gcore [FILE]            a core file with all stacks in it

Owns:        the reading of the runtime's tables; the unwinder that leads from a kernel thread into a parked fiber.
Keeps true:  nothing is written, neither memory nor registers, so all of it works on a live process and on a core
             file; the selected thread and frame are the same afterwards.
Called by:   gdb 12 or newer (measured with 13.1), by its user.
See also:    runtime/inspect.h (the layout that is read here), tools/weft/stacks.h (the same without a debugger).

How a parked fiber is unwound. gdb has no way to be told of a thread that the kernel does not know. Writing its
registers into a thread is dangerous in a live process and impossible in a core. So for the duration of one command an
unwinder claims frame 0 of the selected thread and says that its caller has the registers which the fiber left on its
stack. From there on gdb unwinds by itself. The frames of the fiber therefore begin with number 1 (or 2, if frame 0
of the thread is inlined); inside `apply` they may be selected by these numbers.

Core files. The kernel's are complete. gdb's own gcore gives up a mapping at the first page that cannot be read, and
stacks have guard pages inside their mappings; `weft gcore` writes the same file and then adds what is missing.

Limits: $variables and locals are the fiber's, __thread variables are those of the thread that lends its frame 0
(libthread_db asks the kernel thread). Fibers that run are shown by switching to their kernel thread.
"""

import re
import struct
import time

import gdb
from gdb.unwinder import Unwinder, register_unwinder

VERSION = 1
FRAME_REGISTERS = ("rbx", "rbp", "r12", "r13", "r14", "r15", "rip")
BACKTRACES = ("bt", "backtrace", "where")
FRESH_ROOM = 128  # a context that never ran lies this close to the top of its stack


# --- memory ------------------------------------------------------------------------------------------------------


def read(address, size):
    return gdb.selected_inferior().read_memory(address, size).tobytes()


def read_word(address, size=8):
    return int.from_bytes(read(address, size), "little")


def read_string(address, default):
    text = b""
    try:
        while not text.endswith(b"\0"):
            text += read(address + len(text), 1)
    except gdb.MemoryError:
        return default
    return text[:-1].decode(errors="replace")


# --- the tables of the runtime -----------------------------------------------------------------------------------


class Table:
    """An array of chunks of records."""

    def __init__(self, records, count, per_chunk, stride):
        self.records, self.per_chunk, self.stride = records, per_chunk, stride
        self.count = read_word(count, 4)

    def address(self, index):
        chunk = read_word(self.records + 8 * (index // self.per_chunk))
        return chunk + index % self.per_chunk * self.stride

    def holds(self, address):
        """A record begins there."""
        bases = (self.address(first) for first in range(0, self.count, self.per_chunk))
        return any((address - base) % self.stride == 0 and 0 <= address - base < self.per_chunk * self.stride
                   for base in bases)

    def __iter__(self):
        """(address, bytes) of every record."""
        for first in range(0, self.count, self.per_chunk):
            base = self.address(first)
            n = min(self.per_chunk, self.count - first)
            block = read(base, n * self.stride)
            for i in range(n):
                yield base + i * self.stride, block[i * self.stride:(i + 1) * self.stride]


class Root:
    """A copy of the process's InspectRoot."""

    HEAD = struct.Struct("<16sII" + "QQII" * 3 + "QQ" * 2)
    FIELD = struct.Struct("<32sII")

    def __init__(self):
        address = self.find()
        magic, version, size, *rest = self.HEAD.unpack(read(address, self.HEAD.size))
        if magic.rstrip(b"\0") != b"weft inspect" or version != VERSION:
            raise gdb.GdbError("this script does not understand the version of weft in the program")
        self.fibers, self.carriers = Table(*rest[0:4]), Table(*rest[4:8])
        self.states, self.reasons = self.names(*rest[12:14]), self.names(*rest[14:16])
        fields = read(address + self.HEAD.size, size - self.HEAD.size)
        self.fields = {name.rstrip(b"\0").decode(): (offset, width)
                       for name, offset, width in self.FIELD.iter_unpack(fields) if name[0]}

    @staticmethod
    def find():
        found = re.search(r"(0x[0-9a-f]+) - 0x[0-9a-f]+ is \.weft_inspect", gdb.execute("info files", to_string=True))
        if not found:
            raise gdb.GdbError("no section .weft_inspect: the program does not run under weft, "
                               "or has not loaded it yet")
        return int(found[1], 16)

    @staticmethod
    def names(address, count):
        return [read_string(read_word(address + 8 * i), f"#{i}") for i in range(count)]

    def get(self, record, field):
        offset, width = self.fields[field]
        return int.from_bytes(record[offset:offset + min(width, 8)], "little")

    def id_at(self, address):
        """Of the fiber whose record that is."""
        if not self.fibers.holds(address):
            return f"at {address:#x}"
        return self.get(read(address, self.fibers.stride), "fiber.id")

    def get_text(self, record, field):
        offset, width = self.fields[field]
        return record[offset:offset + width].split(b"\0")[0].decode(errors="replace")


class Fiber:
    def __init__(self, root, address, record):
        def get(field):
            return root.get(record, "fiber." + field)

        self.root, self.address = root, address
        self.id, self.tid, self.name = get("id"), get("tid"), root.get_text(record, "fiber.name")
        self.state = self.name_in(root.states, get("word") & 0xff)
        self.reason = self.name_in(root.reasons, get("reason"))
        self.fd = struct.unpack("<i", struct.pack("<I", get("detail_fd")))[0]
        self.object, self.since = get("detail_object"), get("since")
        self.start, self.sp, self.thread_pointer = get("start"), get("context.sp"), get("context.thread_pointer")
        self.carrier, self.stack_top = get("carrier"), get("stack.top")

    @staticmethod
    def name_in(names, number):
        return names[number] if number < len(names) else f"#{number}"

    def kernel_tid(self):
        """Of the kernel thread that runs it, or None."""
        if self.carrier == 0 or self.state in ("parked", "finished", "free"):
            return None
        record = read(self.carrier, self.root.carriers.stride)
        running = self.root.get(record, "carrier.running") == self.address
        return self.root.get(record, "carrier.kernel_tid") if running else None

    def is_fresh(self):
        """It has never run."""
        return self.stack_top - FRESH_ROOM <= self.sp < self.stack_top

    def saved_registers(self):
        offset, size = self.root.fields["frame"]
        frame = read(self.sp + offset, size)
        registers = {name: self.root.get(frame, "frame." + name) for name in FRAME_REGISTERS}
        registers["rsp"] = self.sp + size
        return registers


def fibers():
    root = Root()
    if root.carriers.count == 0:
        raise gdb.GdbError("the program has started no threads under weft: it runs natively so far")
    everyone = (Fiber(root, address, record) for address, record in root.fibers)
    return [fiber for fiber in everyone if fiber.state != "free"]


def fiber_of(text):
    wanted = gdb.parse_and_eval(text)
    for fiber in fibers():
        if fiber.id == int(wanted):
            return fiber
    raise gdb.GdbError(f"there is no fiber {text}; see weft fibers")


# --- into a parked fiber -----------------------------------------------------------------------------------------


class FrameId:
    def __init__(self, sp, pc):
        self.sp, self.pc = sp, pc  # gdb.Values


class IntoFiber(Unwinder):
    """Says that the caller of one certain frame is a parked fiber."""

    def __init__(self):
        super().__init__("weft")
        self.lender = self.registers = None  # (pc, sp) of the frame; what its caller has
        self.past_main = None  # gdb's setting; on while the lender may be main, behind which gdb sees nothing

    def __call__(self, pending):
        if self.registers is None or self.place(pending) != self.lender:
            return None
        word = pending.architecture().integer_type(64, False)

        def value(number):
            return gdb.Value(number.to_bytes(8, "little"), word)

        # The id lies just below the fiber's frames, so that gdb sees them as outer ones.
        unwound = pending.create_unwind_info(FrameId(value(self.registers["rsp"] - 16), value(self.lender[0])))
        for name, number in self.registers.items():
            unwound.add_saved_register(name, value(number))
        return unwound

    @staticmethod
    def place(frame):
        mask = (1 << 64) - 1
        return int(frame.read_register("rip")) & mask, int(frame.read_register("rsp")) & mask

    def enter(self, fiber):
        """Selects the fiber's innermost frame."""
        self.registers, self.lender = fiber.saved_registers(), self.place(gdb.newest_frame())
        self.past_main = gdb.parameter("backtrace past-main")
        gdb.execute("set backtrace past-main on")
        gdb.invalidate_cached_frames()
        inside = self.registers["rip"], self.registers["rsp"]
        frame = gdb.newest_frame()
        while frame is not None and self.place(frame) != inside:
            frame = frame.older()
        if frame is None:
            raise gdb.GdbError("gdb does not follow into the fiber")
        frame.select()

    def leave(self):
        if self.registers is None:
            return
        self.lender = self.registers = None
        gdb.execute("set backtrace past-main " + ("on" if self.past_main else "off"))
        gdb.invalidate_cached_frames()


into_fiber = IntoFiber()
register_unwinder(None, into_fiber, replace=True)


class Selection:
    """The selected thread and frame, to come back to."""

    def __enter__(self):
        self.thread = gdb.selected_thread()
        if self.thread is None:
            raise gdb.GdbError("the program is not being run")
        self.level = gdb.selected_frame().level()

    def __exit__(self, *failure):
        into_fiber.leave()
        self.thread.switch()
        gdb.execute(f"frame {self.level}", to_string=True)


def thread_of(kernel_tid):
    for thread in gdb.selected_inferior().threads():
        if kernel_tid in thread.ptid[1:]:
            return thread
    return None


def run_here(command):
    """Runs a command in the selected frame; a backtrace begins there."""
    level = gdb.selected_frame().level()
    if level == 0 or command.split()[0] not in BACKTRACES:
        gdb.execute(command)
        return
    text = gdb.execute(command, to_string=True)
    begin = re.search(rf"^#{level}\s", text, re.MULTILINE)
    gdb.write(text[begin.start():] if begin else text)


def apply(fiber, command):
    tid = fiber.kernel_tid()
    if tid is None and fiber.state == "finished":
        gdb.write("(it has ended; its stack is no longer its own)\n")
    elif tid is None and fiber.is_fresh():
        gdb.write(f"(not started yet; begins with {symbol(fiber.start)})\n")
    elif tid is None:
        with Selection():
            into_fiber.enter(fiber)
            run_here(command)
    else:
        thread = thread_of(tid)
        if thread is None:
            gdb.write(f"(running on kernel thread {tid}, which gdb does not have)\n")
            return
        with Selection():
            thread.switch()
            if int(gdb.newest_frame().read_register("fs_base")) & (1 << 64) - 1 != fiber.thread_pointer:
                gdb.write("(it was just being switched to or away from; this is the kernel thread)\n")
            run_here(command)


# --- core files --------------------------------------------------------------------------------------------------

PAGE = 4096
PAGES_AT_ONCE = 1 << 16
PT_LOAD = 1
PN_XNUM = 0xffff


def segments(core):
    """(address, offset in the file, size) of what a core file holds."""
    header = core.read(64)
    table, sections = struct.unpack_from("<QQ", header, 0x20)
    size, count = struct.unpack_from("<HH", header, 0x36)
    if count == PN_XNUM:
        core.seek(sections + 0x2c)
        count = int.from_bytes(core.read(4), "little")
    core.seek(table)
    for entry in struct.iter_unpack("<IIQQQQQQ", core.read(size * count)):
        if entry[0] == PT_LOAD and entry[5] != 0:
            yield entry[3], entry[2], entry[5]


def touched_pages(pagemap, address, size):
    """The addresses of the pages that may hold something, ascending."""
    for first in range(address // PAGE, (address + size) // PAGE, PAGES_AT_ONCE):
        n = min(PAGES_AT_ONCE, (address + size) // PAGE - first)
        pagemap.seek(first * 8)
        entries = pagemap.read(n * 8)
        if entries.strip(b"\0"):
            for i, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
                if entry >> 62:  # present or swapped
                    yield (first + i) * PAGE


def complete_core(path, pid):
    with open(path, "r+b") as core, open(f"/proc/{pid}/mem", "rb", 0) as memory, \
            open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap:
        for address, offset, size in list(segments(core)):
            for page in touched_pages(pagemap, address, size):
                try:
                    memory.seek(page)
                    content = memory.read(PAGE)
                except OSError:  # a guard
                    continue
                core.seek(offset + page - address)
                core.write(content)


# --- words -------------------------------------------------------------------------------------------------------


def symbol(address):
    text = gdb.execute(f"info symbol {address}", to_string=True)
    return f"{address:#x}" if text.startswith("No symbol") else text.split(" in section")[0].strip()


def waiting(fiber):
    text = fiber.reason
    if fiber.fd >= 0:
        text += f" on fd {fiber.fd}"
    if fiber.object and fiber.reason == "join":
        text += f" of fiber {fiber.root.id_at(fiber.object)}"
    elif fiber.object:
        name = symbol(fiber.object)
        text += f" at {fiber.object:#x}" + ("" if name.startswith("0x") else f", {name}")
    return text


def waited(fiber):
    """For how long; only known of a process on this machine."""
    connection = getattr(gdb.selected_inferior(), "connection", None)
    if connection is None or connection.type != "native" or fiber.since == 0:
        return ""
    return f" for {max(0, time.clock_gettime_ns(time.CLOCK_MONOTONIC) - fiber.since) // 1000000} ms"


def describe(fiber):
    text = f'fiber {fiber.id}  tid {fiber.tid}  "{fiber.name}"  {fiber.state}'
    tid = fiber.kernel_tid()
    if tid is not None:
        text += f" on kernel thread {tid}"
    if fiber.state == "parked":
        text += waited(fiber)
    if fiber.state in ("parked", "parking"):
        text += ": " + waiting(fiber)
    return text


# --- commands ----------------------------------------------------------------------------------------------------


class WeftCommand(gdb.Command):
    """Look at the fibers of a program that runs under weft."""

    def __init__(self):
        super().__init__("weft", gdb.COMMAND_STATUS, gdb.COMPLETE_NONE, prefix=True)


class FibersCommand(gdb.Command):
    """List every fiber: id, tid, name, where it stands, what it waits for.
Usage: weft fibers"""

    def __init__(self):
        super().__init__("weft fibers", gdb.COMMAND_STATUS, gdb.COMPLETE_NONE)

    def invoke(self, argument, from_tty):
        for fiber in fibers():
            gdb.write(describe(fiber) + "\n")


class BtCommand(gdb.Command):
    """Print the backtrace of a fiber.
Usage: weft bt ID [ARGUMENTS OF bt]"""

    def __init__(self):
        super().__init__("weft bt", gdb.COMMAND_STACK, gdb.COMPLETE_NONE)

    def invoke(self, argument, from_tty):
        number, _, rest = argument.strip().partition(" ")
        if not number:
            raise gdb.GdbError("Usage: weft bt ID [ARGUMENTS OF bt]")
        apply(fiber_of(number), "bt " + rest)


class FiberCommand(gdb.Command):
    """Run a command as if a fiber were the selected thread.
Usage: weft fiber ID apply COMMAND"""

    def __init__(self):
        super().__init__("weft fiber", gdb.COMMAND_STACK, gdb.COMPLETE_NONE)

    def invoke(self, argument, from_tty):
        words = argument.split(None, 2)
        if len(words) != 3 or words[1] != "apply":
            raise gdb.GdbError("Usage: weft fiber ID apply COMMAND")
        apply(fiber_of(words[0]), words[2])


class GcoreCommand(gdb.Command):
    """Write a core file of the live process that has every fiber's stack.
Usage: weft gcore [FILE]"""

    def __init__(self):
        super().__init__("weft gcore", gdb.COMMAND_SUPPORT, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        pid = gdb.selected_inferior().pid
        path = argument.strip() or f"core.{pid}"
        gdb.execute(f"gcore {path}", to_string=True)
        complete_core(path, pid)
        gdb.write(f"Saved corefile {path}, with the stacks of all fibers\n")


class AllCommand(gdb.Command):
    """Run a command, usually bt, for every fiber.
Usage: weft all COMMAND"""

    def __init__(self):
        super().__init__("weft all", gdb.COMMAND_STACK, gdb.COMPLETE_COMMAND)

    def invoke(self, argument, from_tty):
        if not argument.strip():
            raise gdb.GdbError("Usage: weft all COMMAND")
        for fiber in fibers():
            gdb.write("\n" + describe(fiber) + "\n")
            try:
                apply(fiber, argument)
            except (gdb.error, gdb.GdbError) as error:
                gdb.write(f"({error})\n")


for command in (WeftCommand, FibersCommand, BtCommand, FiberCommand, AllCommand, GcoreCommand):
    command()
