"""p4runtime-shell against the embedded switch: ADDRESS P4INFO JSON.

A worker of the switch sends TCP to port 25 from switch port 1 to switch port 2, again and again.
"""

import os
import sys
import time
import traceback

import grpc
import p4runtime_sh.shell as sh
from p4runtime_sh.p4runtime import P4RuntimeWriteException

DEVICE = 7
# Direct counters know their table by its whole name.
POLICY = "IngressPipe.sender.egress_policy"


def refused(call, code, *words):
    """The one update is refused with this code, and these words."""
    try:
        call()
    except P4RuntimeWriteException as e:
        text = str(e)
        assert len(e.errors) == 1 and code in text, text
        assert all(word in text for word in words), text
        return
    raise AssertionError(f"not refused: {code}")


def attach(port, klass, vlan=None):
    entry = sh.TableEntry("attach")(action="sender.set_class")
    entry.match["port"] = str(port)
    if vlan is not None:
        entry.match["vlan"] = str(vlan)
    entry.action["class_and_overlay"] = str(klass)
    entry.priority = 1
    return entry


def smtp(action):
    entry = sh.TableEntry(POLICY)(action=action)
    entry.match["class"] = "1&&&0xffff"
    entry.match["protocol"] = "6&&&0xff"
    entry.match["dst_port"] = "20..30"
    entry.priority = 50
    return entry


def table(name):
    return list(sh.TableEntry(name).read())


def count(entry):
    counter = sh.DirectCounterEntry("egress_hits")
    counter.table_entry = entry
    found = list(counter.read())
    assert len(found) == 1, found
    return found[0].packet_count, found[0].byte_count


def eventually(what, true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def main():
    address, p4info, json = sys.argv[1:]
    config = sh.FwdPipeConfig(p4info, json)
    # Without `verbose`, version 0.0.6 pads values as before P4Runtime 1.3 (one option stands for both).
    sh.setup(device_id=DEVICE, grpc_addr=address, election_id=(0, 5), config=config, verbose=True)
    assert table("attach") == [] and table(POLICY) == []

    # Exact and optional matches, and all that can be done with an entry.
    attach(1, 1).insert()
    attach(1, 2, vlan=7).insert()
    refused(attach(1, 1).insert, "ALREADY_EXISTS", "attach")
    found = table("attach")
    assert len(found) == 2, found
    assert sorted("vlan" in e.match._fields and e.match["vlan"] is not None for e in found) == [False, True]
    attach(1, 9, vlan=7).modify()
    one = list(attach(1, 9, vlan=7).read())
    assert len(one) == 1 and one[0].action["class_and_overlay"].value == b"\x09", one
    attach(1, 9, vlan=7).delete()
    refused(attach(1, 9, vlan=7).delete, "NOT_FOUND", "attach")
    refused(attach(1, 9, vlan=7).modify, "NOT_FOUND", "attach")
    assert len(table("attach")) == 1

    # A receiver, and where its MAC is.
    receiver = sh.TableEntry("deliver")(action="receiver.set_class")
    receiver.match["port"] = "2"
    receiver.action["class_and_overlay"] = "0"
    receiver.priority = 1
    receiver.insert()
    station = sh.TableEntry("l2")(action="forward")
    station.match["dst_mac"] = "00:00:00:00:00:0b"
    station.action["port"] = "2"
    station.insert()

    # Ranges and masks; hits of packets.
    row = smtp("sender.deny")
    row.insert()
    found = table(POLICY)
    assert len(found) == 1
    ports = found[0].match["dst_port"].range
    assert (ports.low, ports.high) == (b"\x14", b"\x1e"), ports
    assert found[0].match["protocol"].ternary.mask == b"\xff"
    eventually("packets hit the row", lambda: count(row)[0] > 0)
    packets, octets = count(row)
    assert octets >= packets * 54, (packets, octets)
    row.counter_data
    with_counts = list(row.read())
    assert with_counts[0].counter_data.packet_count >= packets
    row.clear_counter_data()
    smtp("sender.allow").modify()
    assert list(row.read()) == [], "it does something else now"
    assert count(row)[0] >= packets
    row.delete()
    assert table(POLICY) == []

    # Values that the pipeline has no bits for, and priorities.
    wrong = smtp("sender.allow")
    wrong.priority = 0
    refused(wrong.insert, "INVALID_ARGUMENT", "egress_policy", "priority")
    wrong = sh.TableEntry("attach")(action="sender.set_class")
    wrong.action["class_and_overlay"] = "1"
    wrong.priority = 1
    refused(wrong.insert, "INVALID_ARGUMENT", "attach", "`port`")

    # Groups.
    group = sh.MulticastGroupEntry(1).add(1).add(2)
    group.insert()
    read = list(sh.MulticastGroupEntry(1).read())
    assert len(read) == 1 and [r.egress_port for r in read[0].replicas] == [1, 2], read
    sh.MulticastGroupEntry(1).add(2).add(3).modify()
    assert [r.egress_port for g in sh.MulticastGroupEntry(0).read() for r in g.replicas] == [2, 3]
    refused(sh.MulticastGroupEntry(2).add(900).insert, "INVALID_ARGUMENT", "900")
    sh.MulticastGroupEntry(1).delete()
    assert list(sh.MulticastGroupEntry(0).read()) == []
    sh.teardown()

    # A backup reads, and may not write.
    sh.setup(device_id=DEVICE, grpc_addr=address, election_id=(0, 4), verbose=True)
    assert len(table("attach")) == 1
    try:
        attach(3, 1).insert()
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.PERMISSION_DENIED, e
    else:
        raise AssertionError("a backup wrote")
    sh.teardown()
    print("OK p4runtime-shell")


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        # The thread of an open stream would keep the process.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
