"""The two hosts' network: a bridge, and for each node a network namespace joined to it by a veth pair.

Every link carries the state folder as its alias (`ip link` shows it), so that what belongs to a cluster can be found
and removed even when its state folder is gone.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from .cluster import NODES, SLOTS, Cluster, Failed, at_slot

NETNS_FOLDER = Path("/run/netns")


def ip(*args: str) -> None:
    """Run `ip`; Failed with its own words."""
    done = subprocess.run(["ip", *args], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"`ip {' '.join(args)}` failed: {done.stderr.strip()}")


def _ip_json(*args: str) -> list[dict[str, Any]]:
    done = subprocess.run(["ip", "-j", *args], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return found


def links_of(state: Path) -> list[str]:
    """Names of the links (bridge and host ends) that belong to the cluster with this state folder."""
    return [link["ifname"] for link in _ip_json("link") if link.get("ifalias") == str(state)]


def netns_inode(name: str) -> int | None:
    try:
        return (NETNS_FOLDER / name).stat().st_ino
    except FileNotFoundError:
        return None


def _port_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def blockers(cluster: Cluster) -> list[str]:
    """Why the cluster's slot cannot be used: bridges, routes, ports of others. Empty when it is free."""
    found = []
    for link in _ip_json("link"):
        if link["ifname"] == cluster.bridge:
            found.append(f"bridge {cluster.bridge} is there ({link.get('ifalias', 'not a mini cluster')})")
    for route in _ip_json("-4", "route"):
        if route["dst"] == "default":
            continue
        if ipaddress.ip_network(route["dst"], strict=False).overlaps(cluster.subnet):
            found.append(f"{cluster.subnet} overlaps the route {route['dst']} of {route.get('dev', '?')}")
    for port in (cluster.slurmctld_port, cluster.slurmdbd_port):
        if not _port_free(port):
            found.append(f"port {port} is in use")
    return found


def own_slot(state: Path) -> int | None:
    """The slot whose bridge this cluster holds."""
    names = links_of(state)
    return next((n for n in range(SLOTS) if f"minibr{n}" in names), None)


def free_slot(cluster: Cluster) -> int | None:
    """The slot it had, if that is free, else the first free one."""
    order = [cluster.slot, *(n for n in range(SLOTS) if n != cluster.slot)]
    return next((n for n in order if not blockers(at_slot(cluster, n))), None)


def reserve(cluster: Cluster) -> Cluster:
    """Take a slot. Naming the bridge takes it: two `up` at the same moment cannot get the same one."""
    held = own_slot(cluster.state)
    if held is not None:
        return at_slot(cluster, held)
    draft = f"minitmp{os.getpid()}"
    ip("link", "add", draft, "type", "bridge")
    ip("link", "set", draft, "alias", str(cluster.state))
    for _ in range(SLOTS):
        slot = free_slot(cluster)
        if slot is None:
            break
        chosen = at_slot(cluster, slot)
        try:
            ip("link", "set", draft, "name", chosen.bridge)
            return chosen
        except Failed:
            continue  # somebody was quicker: that slot is no longer free
    ip("link", "del", draft)
    raise Failed(f"no free slot in {cluster.settings.network} (was one taken since the check?); type `up` again")


def ensure(cluster: Cluster) -> None:
    """Make whatever is missing of the bridge, the namespaces and the links between them. Cut links are restored."""
    ip("addr", "replace", f"{cluster.address}/24", "dev", cluster.bridge)
    ip("link", "set", cluster.bridge, "up")
    for node in NODES:
        name, veth = cluster.netns(node), cluster.veth(node)
        if netns_inode(name) is None:
            ip("netns", "add", name)
        inside = subprocess.run(["ip", "-n", name, "link", "show", "eth0"], capture_output=True)
        if inside.returncode != 0 or veth not in links_of(cluster.state):
            for stale in (["link", "del", veth], ["-n", name, "link", "del", "eth0"]):
                subprocess.run(["ip", *stale], capture_output=True)  # one end without the other, or neither
            ip("link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", veth, "alias", str(cluster.state))
        ip("link", "set", veth, "master", cluster.bridge, "up")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "addr", "replace", f"{cluster.node_address(node)}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")


def set_link(cluster: Cluster, node: str, up: bool) -> None:
    """Cut a node off the network (its processes go on, unaware) or join it again."""
    ip("-n", cluster.netns(node), "link", "set", "eth0", "up" if up else "down")


def remove(cluster: Cluster) -> None:
    """Remove the namespaces and every link of the cluster. Nothing may run in the namespaces any more."""
    for name in links_of(cluster.state):
        # The host end of a veth pair may go by itself, with a namespace that has just died.
        subprocess.run(["ip", "link", "del", name], capture_output=True)
    for node in NODES:
        if netns_inode(cluster.netns(node)) is not None:
            ip("netns", "del", cluster.netns(node))
    left = links_of(cluster.state)
    if left:
        raise Failed(f"these links could not be removed: {', '.join(left)}")
