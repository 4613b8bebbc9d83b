"""finsy against the embedded switch: ADDRESS P4INFO JSON.

A worker of the switch sends TCP to port 25 from switch port 1 to switch port 2, again and again.
"""

import asyncio
import sys
from pathlib import Path

import finsy as fy
from finsy import GRPCStatusCode as Code

DEVICE = 7


def attach(port, klass, **more):
    return fy.P4TableEntry(
        "attach",
        match=fy.P4TableMatch(port=port, **more),
        action=fy.P4TableAction("sender.set_class", class_and_overlay=klass),
        priority=1,
    )


def smtp(action):
    return fy.P4TableEntry(
        "egress_policy",
        match=fy.P4TableMatch({"class": "1/&0xffff", "protocol": "6/&0xff", "dst_port": "20...30"}),
        action=fy.P4TableAction(action),
        priority=50,
    )


async def read(switch, *asked):
    return [entity async for entity in switch.read(list(asked))]


async def refused(call, codes):
    """Updates are refused with these codes, by place."""
    try:
        await call
    except fy.P4ClientError as e:
        found = {place: error.canonical_code for place, error in e.details.items()}
        assert found == codes, (found, codes, str(e))
        return e
    raise AssertionError(f"not refused: {codes}")


async def count(switch, entry):
    [counter] = await read(switch, fy.P4DirectCounterEntry("egress_hits", table_entry=entry))
    return counter.packet_count, counter.byte_count


async def rules(switch):
    """Entries: exact, optional, range, ternary; batches; errors."""
    await switch.insert([attach(1, 1), attach(1, 2, vlan=7)])
    assert len(await read(switch, fy.P4TableEntry("attach"))) == 2
    # In one request, one place is wrong and the others are done.
    batch = [attach(2, 1), attach(1, 1), attach(3, 1)]
    error = await refused(switch.insert(batch), {1: Code.ALREADY_EXISTS})
    assert "attach" in error.details[1].message
    assert len(await read(switch, fy.P4TableEntry("attach"))) == 4
    await switch.delete([attach(2, 1), attach(3, 1)])
    await refused(switch.delete([attach(2, 1)]), {0: Code.NOT_FOUND})
    await switch.delete([attach(2, 1)], strict=False)
    await switch.write([~attach(1, 9, vlan=7)])
    [one] = await read(switch, attach(1, 9, vlan=7))
    assert one.match == {"port": 1, "vlan": 7} and one.action.args == {"class_and_overlay": 9}, one
    await switch.write([-attach(1, 9, vlan=7)])
    assert await read(switch, attach(1, 9, vlan=7)) == []

    await switch.write(
        [
            +fy.P4TableEntry(
                "deliver",
                match=fy.P4TableMatch(port=2),
                action=fy.P4TableAction("receiver.set_class", class_and_overlay=0),
                priority=1,
            ),
            +fy.P4TableEntry(
                "l2",
                match=fy.P4TableMatch(dst_mac="00:00:00:00:00:0b"),
                action=fy.P4TableAction("forward", port=2),
            ),
            +smtp("sender.deny"),
        ]
    )
    [row] = await read(switch, fy.P4TableEntry("egress_policy"))
    assert row.match == {"class": (1, 0xFFFF), "protocol": (6, 0xFF), "dst_port": (20, 30)}, row.match
    wrong = smtp("sender.deny")
    wrong.priority = 0
    await refused(switch.insert([wrong]), {0: Code.INVALID_ARGUMENT})
    await refused(
        switch.modify([fy.P4TableEntry("egress_policy", action=fy.P4TableAction("sender.allow"), is_default_action=True)]),
        {0: Code.PERMISSION_DENIED},
    )
    [default] = await read(switch, fy.P4TableEntry("egress_policy", is_default_action=True))
    assert default.action.name == "sender.deny", default
    everything = await read(switch, fy.P4TableEntry())
    assert len(everything) == 4, everything


async def counters(switch):
    """Packets hit a row; its counter can be set."""
    row = smtp("sender.deny")
    while (await count(switch, row))[0] == 0:
        await asyncio.sleep(0.01)
    packets, octets = await count(switch, row)
    assert octets >= packets * 54, (packets, octets)
    [told] = await read(switch, fy.P4TableEntry("egress_policy", counter_data=fy.P4CounterData()))
    assert told.counter_data.packet_count >= packets
    big = fy.P4CounterData(byte_count=1 << 40, packet_count=1 << 30)
    await switch.modify([fy.P4DirectCounterEntry("egress_hits", table_entry=row, data=big)])
    assert (await count(switch, row))[0] >= 1 << 30
    await switch.modify([smtp("sender.allow")])
    [told] = await read(switch, fy.P4TableEntry("egress_policy"))
    assert told.action.name == "sender.allow"


async def groups(switch):
    """Multicast groups."""
    await switch.insert([fy.P4MulticastGroupEntry(1, replicas=[1, 2])])
    await refused(switch.insert([fy.P4MulticastGroupEntry(2, replicas=[900])]), {0: Code.INVALID_ARGUMENT})
    await switch.modify([fy.P4MulticastGroupEntry(1, replicas=[2, 3])])
    [group] = await read(switch, fy.P4MulticastGroupEntry())
    assert group.multicast_group_id == 1 and [int(p) for p in ports(group)] == [2, 3], group
    await switch.delete([fy.P4MulticastGroupEntry(1)])
    assert await read(switch, fy.P4MulticastGroupEntry()) == []


def ports(group):
    return [getattr(replica, "port", replica) for replica in group.replicas]


async def main():
    address, p4info, json = sys.argv[1:]
    options = fy.SwitchOptions(p4info=Path(p4info), p4blob=Path(json), device_id=DEVICE, initial_election_id=10)
    async with fy.Switch("s", address, options) as switch:
        assert switch.is_primary
        await rules(switch)
        await counters(switch)
        await groups(switch)
        # Another one with the same election id becomes a backup: it reads, and may not write.
        async with fy.Switch("b", address, options) as backup:
            assert not backup.is_primary and backup.primary_id == 10
            assert len(await read(backup, fy.P4TableEntry())) == 4
            try:
                await backup.delete([attach(1, 1)])
            except fy.P4ClientError as e:
                assert e.code == Code.PERMISSION_DENIED, e
            else:
                raise AssertionError("a backup wrote")
        await switch.delete_all()
        assert await read(switch, fy.P4TableEntry(), fy.P4MulticastGroupEntry()) == []
        await switch.insert([attach(1, 1)])
    # What was written is there for the next, which finds its program by its cookie.
    async with fy.Switch("s", address, options) as switch:
        assert len(await read(switch, fy.P4TableEntry())) == 1
    print("OK finsy")


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(), 100))
