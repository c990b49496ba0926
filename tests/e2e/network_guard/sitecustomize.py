"""On PYTHONPATH of every Python child: refuses connections and look-ups beyond this machine.

NETWORK_GUARD names a folder: `process-PID` says that the guard was active there, `refused-PID` what
was refused.
"""

import ipaddress
import os
import socket
import sys
from pathlib import Path

FOLDER = os.environ.get("NETWORK_GUARD")


def _local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse(what: str) -> None:
    with open(Path(FOLDER) / f"refused-{os.getpid()}", "a") as file:
        file.write(f"{what} in {' '.join(sys.orig_argv)}\n")
    raise OSError(f"the network guard refuses {what}")


def _guarded(name, check):
    original = getattr(socket.socket, name)

    def guarded(self, *args):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            address = check(args)
            if address is not None and not _local(address[0]):
                _refuse(f"{name} to {address}")
        return original(self, *args)

    setattr(socket.socket, name, guarded)


def _guarded_lookup(name):
    original = getattr(socket, name)

    def guarded(host, *args, **kwargs):
        if not _local(host):
            _refuse(f"{name} of {host}")
        return original(host, *args, **kwargs)

    setattr(socket, name, guarded)


if FOLDER:
    (Path(FOLDER) / f"process-{os.getpid()}").write_text(" ".join(sys.orig_argv))
    for _name in ("connect", "connect_ex"):
        _guarded(_name, lambda args: args[0])
    _guarded("sendto", lambda args: args[-1] if isinstance(args[-1], tuple) else None)
    for _name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        _guarded_lookup(_name)
