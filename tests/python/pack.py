"""The reference's protobuf packet, described at run time so that no compiler for .proto files is needed."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2


def pack_class():
    """The message class `Pack`."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="packet.proto", syntax="proto3", dependency=[timestamp_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name="Pack")
    for number, name in [(1, "content"), (2, "file_name"), (3, "distributed")]:
        message.field.add(name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    message.field.add(
        name="last_updated",
        number=5,
        type=field.TYPE_MESSAGE,
        type_name=".google.protobuf.Timestamp",
        label=field.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Pack"))
