"""A plain P4Runtime client: writes the entries of a file, and tells how long that took.

usage: write.py DESCRIPTORS ADDRESS DEVICE_ID ELECTION_ID BATCH IN_FLIGHT FILE
DESCRIPTORS is the descriptor set of P4Runtime: protobuf makes the same classes of it as of generated stubs.
FILE has an entry per line, as JSON: table, priority, metadata, controller_metadata, match ([id, kind, value, more]),
action, params ([id, value]); values in hexadecimal. What is timed is what a controller does with rows that it holds:
building the messages, sending them, and waiting until every one is acknowledged.
"""

import json
import queue
import sys
import time
from collections import deque

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import api_implementation

INSERT = 1


def classes(file):
    files = descriptor_pb2.FileDescriptorSet()
    with open(file, "rb") as content:
        files.ParseFromString(content.read())
    pool = descriptor_pool.DescriptorPool()
    for one in files.file:
        pool.Add(one)
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName("p4.v1." + name))


def row(line):
    entry = json.loads(line)
    value = bytes.fromhex
    match = [(i, kind, value(v), more if kind == "lpm" else value(more)) for i, kind, v, more in entry["match"]]
    params = [(i, value(v)) for i, v in entry["params"]]
    return (entry["table"], entry["priority"], value(entry["metadata"]), entry["controller_metadata"], match,
            entry["action"], params)


def add(request, entry):
    table, priority, metadata, controller_metadata, match, action, params = entry
    update = request.updates.add()
    update.type = INSERT
    message = update.entity.table_entry
    message.table_id = table
    message.priority = priority
    message.metadata = metadata
    message.controller_metadata = controller_metadata
    for field_id, kind, value, more in match:
        field = message.match.add()
        field.field_id = field_id
        if kind == "exact":
            field.exact.value = value
        elif kind == "optional":
            field.optional.value = value
        elif kind == "ternary":
            field.ternary.value = value
            field.ternary.mask = more
        elif kind == "range":
            field.range.low = value
            field.range.high = more
        else:
            field.lpm.value = value
            field.lpm.prefix_len = more
    message.action.action.action_id = action
    for param_id, value in params:
        param = message.action.action.params.add()
        param.param_id = param_id
        param.value = value


def main():
    descriptors, address, device_id, election_id, batch, in_flight, file = sys.argv[1:]
    device_id, election_id, batch, in_flight = int(device_id), int(election_id), int(batch), int(in_flight)
    with open(file, encoding="ascii") as lines:
        rows = [row(line) for line in lines]
    channel = grpc.insecure_channel(address)
    of = classes(descriptors)
    write_request = of("WriteRequest")
    service = "/p4.v1.P4Runtime/"
    write = channel.unary_unary(service + "Write", write_request.SerializeToString, of("WriteResponse").FromString)
    stream_channel = channel.stream_stream(service + "StreamChannel", of("StreamMessageRequest").SerializeToString,
                                           of("StreamMessageResponse").FromString)
    requests = queue.Queue()
    first = of("StreamMessageRequest")()
    first.arbitration.device_id = device_id
    first.arbitration.election_id.low = election_id
    requests.put(first)
    stream = stream_channel(iter(requests.get, None))
    for message in stream:
        if message.WhichOneof("update") == "arbitration":
            if message.arbitration.status.code != 0:
                sys.exit("not the primary: " + message.arbitration.status.message)
            break
    began = time.perf_counter()
    pending = deque()
    for start in range(0, len(rows), batch):
        request = write_request()
        request.device_id = device_id
        request.election_id.low = election_id
        for entry in rows[start:start + batch]:
            add(request, entry)
        if in_flight == 1:
            write(request)
            continue
        pending.append(write.future(request))
        if len(pending) == in_flight:
            pending.popleft().result()
    for call in pending:
        call.result()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "rows": len(rows), "protobuf": api_implementation.Type()}))
    requests.put(None)
    channel.close()


main()
