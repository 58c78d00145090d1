"""Watchdog of data-parallel processes: when one dies, the others end within seconds, whatever they are doing.

Gloo reports a lost connection only to a process that waits in a collective operation, and NCCL reports nothing before
the operation times out. `torchrun` sees the processes of one node and lets them hang for 30 seconds. Therefore each
process keeps a connection to rank 0. The system closes it when the process ends, however that happens, and rank 0
tells the others. A process that is still running `GRACE_SECONDS` later is ended by its watchdog thread.

Since a slow process is not a dead one, rank 0 may take any time to write a checkpoint.
"""

import contextlib
import ipaddress
import os
import secrets
import select
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator

import torch.distributed as dist

from benchmark.errors import UserError

GRACE_SECONDS = 3.0
"""Time in which a process may report the death of another one by itself, such as an error of gloo."""
KEEPALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3}
"""Seconds of silence before a probe, seconds between probes, and number of lost ones that mark a node as dead.

Where the system lacks an option, its default applies.
"""
HELLO_SECONDS = 2.0
"""Maximum wait for the token of a process that has connected; it sends it at once."""
POLL_SECONDS = 0.05
ADDRESS = "synrep/watchdog"
"""Key of the store under which rank 0 publishes where to connect."""
TOKEN_BYTES, RANK_BYTES = 16, 4
_LEAVES, _FAILS = b"\1", b"\0"

Peers = dict[int, socket.socket]
"""Connections by rank: those of all others in rank 0, that of rank 0 elsewhere."""


@contextlib.contextmanager
def watched(store: dist.Store, rank: int, world: int, start_seconds: float) -> Iterator[None]:
    """End this process, with one line, if another one ends inside of this block.

    A process may leave the block normally or, since all stop at the same step, by KeyboardInterrupt.

    Args:
        store: store of the process group.
        rank: rank of this process.
        world: number of processes.
        start_seconds: maximum wait for the other processes.

    Raises:
        UserError: another process has not connected in time.
    """
    with contextlib.ExitStack() as stack:
        peers = _connected(store, rank, world, time.monotonic() + start_seconds)
        main, thread_end = socket.socketpair()
        for connection in (main, thread_end, *peers.values()):
            stack.enter_context(connection)
        thread = threading.Thread(target=_watch, args=(rank, world, peers, thread_end), daemon=True)
        thread.start()
        stack.callback(thread.join)
        farewell = _FAILS
        try:
            yield
            farewell = _LEAVES
        except KeyboardInterrupt:
            farewell = _LEAVES
            raise
        finally:
            main.sendall(farewell)


def _watch(own: int, world: int, peers: Peers, main: socket.socket) -> None:
    """Wait until the main thread leaves; if another process ends before, tell the others and end this process."""
    ended = None
    with selectors.DefaultSelector() as selector:
        selector.register(main, selectors.EVENT_READ)
        for rank, peer in peers.items():
            selector.register(peer, selectors.EVENT_READ, rank)
        while ended is None:
            for key, _ in selector.select():
                if key.data is None:
                    if main.recv(1) == _LEAVES:
                        _tell(peers, own)
                    return
                named = _received(peers[key.data])
                if named == key.data:  # it leaves
                    selector.unregister(key.fileobj)
                else:
                    ended = key.data if named is None else named
    _tell(peers, ended)
    if not select.select([main], [], [], GRACE_SECONDS)[0]:
        reason = f"process {ended} ended; see its error, then run the same command again to resume"
        print(f"synrep: process {own} of {world}: {reason}", file=sys.stderr, flush=True)
        os._exit(2)  # the main thread may be inside of a call that nothing else interrupts


def _tell(peers: Peers, rank: int) -> None:
    """Tell all peers that a process ended, or that this one leaves."""
    for peer in peers.values():
        with contextlib.suppress(OSError):
            peer.sendall(rank.to_bytes(RANK_BYTES))


def _received(peer: socket.socket) -> int | None:
    """Return the rank that a peer names, or None if its connection is closed."""
    with contextlib.suppress(OSError):
        message = peer.recv(RANK_BYTES, socket.MSG_WAITALL)
        return int.from_bytes(message) if message else None
    return None


def _connected(store: dist.Store, rank: int, world: int, deadline: float) -> Peers:
    """Connect all processes to rank 0. All waits can be interrupted by a signal.

    Raises:
        UserError: another process has not connected before the deadline.
    """
    try:
        peers = _accept(store, world, deadline) if rank == 0 else {0: _connect(store, rank, deadline)}
    except OSError as error:
        hint = "see the errors of the other processes; nodes must reach each other on any port"
        raise UserError(f"process {rank} of {world} cannot connect to the others ({error}); {hint}") from None
    for peer in peers.values():
        peer.settimeout(None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if number := getattr(socket, option, None):
                peer.setsockopt(socket.IPPROTO_TCP, number, value)
    return peers


def _accept(store: dist.Store, world: int, deadline: float) -> Peers:
    """Publish the address of rank 0, and accept the connections of all others."""
    token, peers = secrets.token_bytes(TOKEN_BYTES), Peers()
    dualstack = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dualstack else socket.AF_INET
    with socket.create_server(("", 0), family=family, backlog=world, dualstack_ipv6=dualstack) as server:
        store.set(ADDRESS, f"{_own_host()} {server.getsockname()[1]} {token.hex()}")
        while len(peers) < world - 1:
            server.settimeout(max(deadline - time.monotonic(), POLL_SECONDS))
            peer, _ = server.accept()
            peer.settimeout(HELLO_SECONDS)
            hello = b""
            with contextlib.suppress(OSError):  # of a stranger, such as a scan of ports
                while (missing := TOKEN_BYTES + RANK_BYTES - len(hello)) and (part := peer.recv(missing)):
                    hello += part
            if not missing and hello.startswith(token):
                peers[int.from_bytes(hello[TOKEN_BYTES:])] = peer
            else:
                peer.close()
    return peers


def _connect(store: dist.Store, rank: int, deadline: float) -> socket.socket:
    """Connect to rank 0."""
    while not store.check([ADDRESS]):
        if time.monotonic() > deadline:
            raise TimeoutError("process 0 is not there")
        time.sleep(POLL_SECONDS)
    host, port, token = store.get(ADDRESS).decode().split()
    peer = socket.create_connection((host, int(port)), max(deadline - time.monotonic(), POLL_SECONDS))
    peer.sendall(bytes.fromhex(token) + rank.to_bytes(RANK_BYTES))
    return peer


def _own_host() -> str:
    """Return the host under which the other nodes reach this one: where this node sees the launcher's, or that."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # of a datagram socket: chooses a route, sends nothing
        here, there = probe.getsockname()[0], probe.getpeername()[0]
    return host if here == there or ipaddress.ip_address(there).is_loopback else here
