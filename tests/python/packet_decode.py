"""Decodes a recorded protobuf packet with PyPI protobuf and prints what is in it as one JSON object."""

import base64
import hashlib
import json
import sys

from pack import pack_class


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: packet_decode.py FILE")
    with open(sys.argv[1], "rb") as file:
        packet = file.read()
    pack = pack_class().FromString(packet)
    content = base64.b64decode(pack.content, validate=True)
    facts = {
        "packet_length": len(packet),
        "content_length": len(pack.content),
        "file_name": pack.file_name,
        "distributed": pack.distributed,
        "last_updated": pack.last_updated.ToJsonString() if pack.HasField("last_updated") else None,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "unknown_fields": has_unknown_fields(pack),
    }
    print(json.dumps(facts))


def has_unknown_fields(pack):
    """Whether fields came that the message does not have: they are kept, and gone when discarded."""
    known = type(pack)()
    known.CopyFrom(pack)
    known.DiscardUnknownFields()
    return known.ByteSize() != pack.ByteSize()


if __name__ == "__main__":
    main()
