"""Instructions per request, by callgrind: by function, and by the crate whose source they come from."""

import re
import subprocess
import time

import load
from process import Process

MEMORY = re.compile(r"mem(cpy|move|set|cmp|chr)|bcmp|strlen", re.I)
ALLOCATOR = re.compile(r"^(malloc|free|calloc|realloc|cfree|aligned_alloc|posix_memalign|_int_|unlink_chunk|tcache|sysmalloc|__rust_(alloc|dealloc|realloc)|__rustc::__rust)|^mi_")


def per_request(command, port, directory, few, many, host=load.HOST, ready=lambda server: None):
    """Instructions by (owner, function): the difference of a long and a short run holds no start and no end."""
    long_run, lasted = run(command, port, directory, many, host, ready, 0)
    # As long, so that what goes by the clock is the same in both: under callgrind a second holds few requests.
    short_run, _ = run(command, port, directory, few, host, ready, lasted)
    return {key: (long_run.get(key, 0) - short_run.get(key, 0)) / (many - few) for key in long_run.keys() | short_run.keys()}


def run(command, port, directory, requests, host, ready, least):
    """One life of the server under callgrind, with so many requests in it once `ready` returns; and the seconds that took."""
    out = directory / "callgrind.out"
    out.unlink(missing_ok=True)
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *map(str, command)]
    server = Process("callgrind", command, port, directory / "callgrind.log", patience=300)
    try:
        ready(server)
        began = time.monotonic()
        load.h2load(f"http://127.0.0.1:{port}/", ["--h1", "-n", str(requests), "-c", "16"], 300, authority=host)
        lasted = time.monotonic() - began
        time.sleep(max(0.0, least - lasted))
        # What it counted, it writes at its end.
        server.child.terminate()
        server.child.wait(120)
    finally:
        server.stop()
    return read(out), lasted


def of_workers(command, port, directory, few, many, host, ready):
    """Instructions per request in the threads that serve requests, of a server that takes long to start: between two dumps
    of one life, less what the same threads do in a time as long without requests."""
    for old in directory.glob("callgrind.out*"):
        old.unlink()
    options = ["--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={directory}/callgrind.out"]
    server = Process("callgrind", ["valgrind", *options, *map(str, command)], port, directory / "callgrind.log", patience=900)

    def ask(requests):
        load.h2load(f"http://127.0.0.1:{port}/", ["--h1", "-n", str(requests), "-c", "16"], 600, authority=host)

    def dump():
        subprocess.run(["callgrind_control", "--dump", str(server.child.pid)], check=True, capture_output=True, cwd=directory)

    try:
        ready(server)
        ask(few)
        dump()
        began = time.monotonic()
        ask(many)
        lasted = time.monotonic() - began
        dump()
        time.sleep(lasted)
        dump()
    finally:
        server.stop()
    busy, idle = (sum(worker_threads(directory, part)) for part in (2, 3))
    return (busy - idle) / many


def worker_threads(directory, part):
    """What each thread executed by the time of a dump that has our HTTP/1 code in it."""
    for path in directory.glob(f"callgrind.out.{part}-*"):
        costs = read(path)
        if any("proxy::worker" in function for _, function in costs):
            yield sum(costs.values())


def read(path):
    """Instructions by (owner, function) of one run."""
    costs, names = {}, {"fl": {}, "fn": {}, "ob": {}}
    file = function = thing = "???"
    skip = False
    for line in open(path, errors="replace"):
        line = line.rstrip("\n")
        if line and line[0] in "0123456789+-*":
            # The cost of a call is its callee's; it follows the `calls=` line.
            if not skip:
                key = (owner(file, function, thing), short(function))
                costs[key] = costs.get(key, 0) + int(line.split()[1])
            skip = False
            continue
        kind, _, value = line.partition("=")
        if kind == "calls":
            skip = True
        elif kind in ("fl", "fi", "fe"):
            file = named(names["fl"], value)
        elif kind == "fn":
            function = named(names["fn"], value)
        elif kind == "ob":
            thing = named(names["ob"], value)
        # Names may be given at their first use as a callee.
        elif kind in ("cfi", "cfl"):
            named(names["fl"], value)
        elif kind == "cfn":
            named(names["fn"], value)
        elif kind == "cob":
            named(names["ob"], value)
    return costs


def named(table, value):
    """`(12) name` gives a name to a number, `(12)` stands for it."""
    number, _, name = value.partition(" ")
    if name:
        table[number] = name
    return table.get(number, value)


def owner(file, function, thing):
    """The crate whose source the instruction comes from, also where it was inlined elsewhere."""
    if MEMORY.search(function) and "::" not in function:
        return "mem*"
    if ALLOCATOR.search(function):
        return "allocator"
    if found := re.search(r"/registry/src/[^/]+/([^/]+?)-\d", file):
        return found[1]
    if "/rustc/" in file or "/library/" in file:
        return "std"
    if file.startswith("src/") or "/src/" in file and file.endswith(".rs"):
        return "tealgate"
    return thing.rsplit("/", 1)[-1] if file == "???" else "libc"


def short(function):
    """Without the hash at its end, and what generics hold left out past the first levels."""
    function = re.sub(r"::h[0-9a-f]{16}", "", function)
    function = re.sub(r"'\d+$", "", function)
    while len(function) > 110 and (cut := re.sub(r"<[^<>]{12,}>", "<…>", function)) != function:
        function = cut
    return function
