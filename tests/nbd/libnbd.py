"""libnbd against an export, one function per subject. Usage: libnbd.py URI"""
import sys

import nbd

URI = sys.argv[1]


def connect(contexts=()):
    handle = nbd.NBD()
    handle.set_strict_mode(0)  # what is wrong is for the server to refuse
    for context in contexts:
        handle.add_meta_context(context)
    handle.connect_uri(URI)
    return handle


def refused(code, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        assert error.errno == code, (call, arguments, error.errno, str(error))
    else:
        raise AssertionError((call, arguments, "was accepted"))


def ranges():
    handle = connect()
    size = handle.get_size()
    refused("EINVAL", handle.pread, 512, size)
    refused("ENOSPC", handle.pwrite, bytes(512), size)
    refused("ENOSPC", handle.zero, 512, size)
    refused("EINVAL", handle.trim, 512, size)
    refused("EINVAL", handle.pread, 1024, size - 512)
    refused("EINVAL", handle.pread, 1, 1)
    refused("EINVAL", handle.pwrite, b"x", 1)
    assert len(handle.pread(512, 0)) == 512


def flags():
    handle = connect()
    refused("EINVAL", handle.pread, 512, 0, 1 << 9)
    refused("EINVAL", handle.pwrite, bytes(512), 0, 1 << 9)
    handle.pwrite(b"f" * 512, 0, nbd.CMD_FLAG_FUA)
    handle.zero(512, 0, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
    handle.trim(4096, 4096, nbd.CMD_FLAG_FUA)
    handle.cache(4096, 0)
    assert handle.pread(512, 0) == bytes(512)


def fast_zero_leaves_the_data_or_is_done():
    handle = connect()
    handle.pwrite(b"d" * 4096, 8192)
    try:
        handle.zero(4096, 8192, nbd.CMD_FLAG_FAST_ZERO)
        expected = bytes(4096)
    except nbd.Error as error:
        assert error.errno == "ENOTSUP", error.errno
        expected = b"d" * 4096
    assert handle.pread(4096, 8192) == expected


def connections_share_one_state():
    first, second = connect(), connect()
    assert first.can_multi_conn()
    first.pwrite(b"m" * 4096, 1 << 20)
    second.flush()
    assert second.pread(4096, 1 << 20) == b"m" * 4096


def a_thousand_reads_in_flight():
    handle = connect()
    for block in range(16):
        handle.pwrite(bytes([block]) * 4096, block * 4096)
    buffers = [nbd.Buffer(4096) for _ in range(1000)]
    cookies = [
        handle.aio_pread(buffer, number % 16 * 4096)
        for number, buffer in enumerate(buffers)
    ]
    while handle.aio_in_flight() > 0:
        handle.poll(-1)
    for cookie in cookies:
        assert handle.aio_command_completed(cookie)
    assert len(set(cookies)) == 1000
    for number, buffer in enumerate(buffers):
        assert buffer.to_bytearray() == bytes([number % 16]) * 4096, number


def block_status():
    handle = connect([nbd.CONTEXT_BASE_ALLOCATION, "twinblk:out-of-sync"])
    assert handle.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    assert handle.can_meta_context("twinblk:out-of-sync")
    handle.pwrite(b"b" * 65536, 2 << 20)
    seen = {}

    def note(context, offset, entries, error):
        seen[context] = (offset, entries)

    handle.block_status(65536, 2 << 20, note)
    offset, entries = seen[nbd.CONTEXT_BASE_ALLOCATION]
    assert offset == 2 << 20 and entries[1] == 0, "written blocks are data"
    assert "twinblk:out-of-sync" in seen
    seen.clear()
    handle.block_status(8 << 20, 0, note, nbd.CMD_FLAG_REQ_ONE)
    assert all(len(entries) == 2 for _, entries in seen.values())
    assert all(entries[0] <= 8 << 20 for _, entries in seen.values())


def simple_and_structured():
    for structured in (True, False):
        handle = nbd.NBD()
        handle.set_request_structured_replies(structured)
        handle.connect_uri(URI)
        assert handle.get_structured_replies_negotiated() == structured
        assert handle.can_df() == structured
        handle.pwrite(b"s" * 4096, 4096)
        assert handle.pread(4096, 4096) == b"s" * 4096
        handle.shutdown()


def export_by_old_name_option():
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.connect_uri(URI)
    exports = []
    handle.opt_list(lambda name, description: exports.append(name))
    assert handle.get_export_name() in exports, exports
    name = handle.get_export_name()
    handle.set_export_name("no such export")
    refused("ENOENT", handle.opt_info)
    handle.set_export_name(name)
    handle.opt_info()
    size = handle.get_size()
    handle.opt_abort()
    assert size > 0


def largest_payloads():
    handle = connect()
    size = 32 << 20
    data = bytes(range(256)) * (size // 256)
    handle.pwrite(data, 0)
    assert handle.pread(size, 0) == data


for subject in (
    ranges,
    flags,
    fast_zero_leaves_the_data_or_is_done,
    connections_share_one_state,
    a_thousand_reads_in_flight,
    block_status,
    simple_and_structured,
    export_by_old_name_option,
    largest_payloads,
):
    subject()
    print(subject.__name__, "passed")
print("all passed")
