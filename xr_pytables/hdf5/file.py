"""One HDF5 file: its objects by the addresses of their headers, and by paths.

Nothing is read twice: blocks of metadata, parsed headers, and what equal messages say are kept for as long as the file
is. A file may be used by several threads. Whatever is damaged raises a FormatError that names the file and the address,
and costs nothing but what asked for it.
"""

from __future__ import annotations

import math
import posixpath
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from ..chunks.filters import FilterPipeline
from ..errors import FormatError, MissingNodeError
from ..sources.remote import Remote
from ..sources.source import Source, printable, shortened
from .attributes import (
    MAX_ATTRIBUTE_BYTES,
    AttributeHead,
    AttributeInfo,
    RawAttribute,
    Unreadable,
    Value,
    data_start,
    decode_attribute_info,
    decode_head,
    decode_value,
    size_of_objects,
)
from .btree_v2 import ATTRIBUTE_NAMES, BTreeV2
from .damage import OF_WRONG_BYTES, Damaged, Reading, Unsupported, reason, taken
from .data_layout import Layout, address_place, decode_layout
from .dataset import DatasetInfo, describe, like
from .dataspace import Extent, decode_dataspace
from .datatype import Datatype, decode_datatype
from .fill_value import FillValue, decode_fill_value, decode_old_fill_value
from .filter_pipeline import decode_filter_pipeline
from .fractal_heap import FractalHeap
from .global_heap import GlobalHeap
from .groups import Links, checked, is_group, links_address, open_group
from .links import Link
from .local_heap import read_local_heap
from .metadata import UNDEFINED, Metadata
from .object_header import (
    ATTRIBUTE,
    ATTRIBUTE_INFO,
    B_TREE_K,
    CACHE_IMAGE,
    DATA_LAYOUT,
    DATASPACE,
    DATATYPE,
    DRIVER_INFO,
    EXTERNAL_FILES,
    FILL_VALUE,
    FILTER_PIPELINE,
    MESSAGE_TABLE,
    OLD_FILL_VALUE,
    REFERENCE_COUNT,
    Message,
    ObjectHeader,
    read_headers,
)
from .shared_messages import SharedMessages, decode_shared
from .superblock import Superblock, find_superblock, refuse_driver, with_b_tree_k, with_message_table

if TYPE_CHECKING:
    from .external_files import ExternalFile
    from .virtual import Mapping

ObjectKind = Literal["group", "dataset", "datatype", "unknown"]

MAX_SOFT_LINKS: Final = 64
_MAX_KEPT_BYTES: Final = 1 << 26  # of parsed headers
_MAX_KEPT_VALUES: Final = 1 << 13
_MAX_KEPT_BODY: Final = 512  # bytes of a message
_MAX_KEPT_GROUPS: Final = 8
_SIDE_BY_SIDE: Final = 32  # groups that are looked at by a thread each, which waits
_MAX_DENSE: Final = 1 << 14  # objects whose attributes outside of the header are looked at together


class ExternalTarget(NamedTuple):
    """Where an external link leads: `path` inside the file `file` (as written in the link)."""

    file: str
    path: str


class ExternalLinkError(MissingNodeError):
    """A path passes through an external link; `target` says where it goes on."""

    def __init__(self, message: str, target: ExternalTarget) -> None:
        super().__init__(message)
        self.target = target


class Place(NamedTuple):
    """An object of a file."""

    path: str
    """Without links."""
    address: int
    """Of its header."""


class _Form(NamedTuple):
    """All of an attribute but its value."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...] | None
    dtype: np.dtype | None
    """Of values that NumPy can see in the bytes."""
    size: int
    """Bytes of such values."""

    @classmethod
    def of(cls, name: str, datatype: Datatype, shape: tuple[int, ...] | None) -> _Form:
        count = math.prod(shape or ())
        plain = shape is not None and datatype.exact and datatype.kind not in ("text", "vlen", "reference")
        size = count * datatype.itemsize
        return cls(name, datatype, shape, datatype.dtype if plain and size <= MAX_ATTRIBUTE_BYTES else None, size)


class File:
    """A file, read from a source that stays the caller's to close."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.path, self.name = source.path, source.name
        self._headers: dict[int, ObjectHeader | FormatError] = {}
        self._kept_bytes = 0
        self._attributes: dict[bytes, tuple[str, RawAttribute]] = {}
        self._datasets: dict[tuple[Any, ...], DatasetInfo] = {}
        self._forms: dict[bytes, _Form] = {}
        self._variable_bytes = 0
        self._dense: dict[int, tuple[FractalHeap, BTreeV2]] = {}
        self._groups: dict[int, Links] = {}
        self._suggested: tuple[int, str] = (-1, "")
        self._owners: dict[int, int] = {}
        self._header_sizes: dict[int, int] = {}
        self._header_bytes = 0
        self._messages: SharedMessages | None = None
        superblock = find_superblock(source)
        self._metadata = Metadata(source, superblock.base)
        self._global_heap = GlobalHeap(self._metadata)
        self.superblock = self._with_extension(superblock)

    @property
    def root(self) -> int:
        """Address of the root group's header."""
        return self.superblock.root

    @property
    def base_address(self) -> int:
        """Size of the user block: addresses in the file count from here, in bytes."""
        return self.superblock.base

    def _with_extension(self, superblock: Superblock) -> Superblock:
        if superblock.driver != UNDEFINED:
            with Reading(self.name, "the driver information block", superblock.driver):
                refuse_driver(self._metadata.read(superblock.driver, 16, "the driver information")[8:])
        if superblock.extension == UNDEFINED:
            return superblock
        header = self.header(superblock.extension)
        with Reading(self.name, "the superblock extension", superblock.extension):
            for kind, _, body in header.messages:
                if kind == DRIVER_INFO:
                    refuse_driver(body[1:9])
                if kind == CACHE_IMAGE:
                    raise Unsupported(
                        "a file with an image of HDF5's metadata cache. Opening it with HDF5 for writing "
                        "and closing it puts the metadata in their place"
                    )
                if kind == B_TREE_K:
                    superblock = with_b_tree_k(superblock, body)
                if kind == MESSAGE_TABLE:
                    superblock = with_message_table(superblock, body)
        return superblock

    # -- headers --------------------------------------------------------------------------------------------

    def prefetch(self, addresses: Iterable[int]) -> None:
        """Read and check the headers of many objects together, so that asking for each then costs little."""
        missing = [address for address in dict.fromkeys(addresses) if address not in self._headers]
        for address, header in zip(missing, read_headers(self._metadata, missing), strict=True):
            self._keep(address, header)

    def prefetch_groups(self, addresses: Sequence[int]) -> None:
        """Read what many groups say of what is in them, side by side: where a source is far away, that is less waiting.

        Where it is not, nothing is read. Those of damaged groups are left to whoever asks for them.
        """
        if len(addresses) < 2 or not isinstance(self.source, Remote) or self.source.exact:
            return
        with ThreadPoolExecutor(_SIDE_BY_SIDE, "xr_pytables-groups") as pool:
            links = list(pool.map(self._links_of_group, addresses))
        inside = [link.address for group in links for link in group if link.kind == "hard"]
        self.prefetch(inside)
        self.prefetch_attributes(inside)

    def header(self, address: int) -> ObjectHeader:
        """The header at `address`."""
        header = self._headers.get(address)
        if header is None:
            (header,) = read_headers(self._metadata, [address])
            self._keep(address, header)
        if isinstance(header, FormatError):
            raise FormatError(*header.args) from header
        return header

    def _keep(self, address: int, header: ObjectHeader | FormatError) -> None:
        if self._kept_bytes > _MAX_KEPT_BYTES:
            self._headers.clear()
            self._kept_bytes = 0
        if isinstance(header, ObjectHeader) and address not in self._header_sizes:
            self._header_sizes[address] = header.size
            self._header_bytes += header.size
            if self._header_bytes > self._metadata.size:
                header = FormatError(f"{self.name}: the object header at address {address} overlaps others")
        self._headers[address] = header
        self._kept_bytes += 256 + (header.size if isinstance(header, ObjectHeader) else 0)

    def kind(self, address: int) -> ObjectKind:
        """What the object at `address` is."""
        header = self.header(address)
        if is_group(header):
            return "group"
        if DATATYPE in header.types:
            return "dataset" if DATASPACE in header.types else "datatype"
        return "unknown"

    def link_count(self, address: int) -> int:
        """How many hard links lead to the object at `address`."""
        header = self.header(address)
        message = header.first(REFERENCE_COUNT)
        with Reading(self.name, "the object", address):
            return header.links if message is None else struct.unpack_from("<I", message.body, 1)[0]

    def _body(self, message: Message) -> bytes:
        return self._unshared(message.type, message.body) if message.shared else message.body

    def _unshared(self, kind: int, body: bytes) -> bytes:
        """The message that is shared with others and for which `body` stands."""
        place = decode_shared(body)
        if place.address is None:
            return self._shared_messages().get(kind, place.identifier)
        message = self.header(place.address).first(kind)
        if message is None or message.shared:
            raise Damaged(f"the object at {place.address} has no message of type {kind} to share")
        return message.body

    def _shared_messages(self) -> SharedMessages:
        if self._messages is None:
            if self.superblock.message_table == UNDEFINED:
                raise Damaged("a shared message in a file that has none")
            self._messages = SharedMessages(
                self._metadata, self.superblock.message_table, self.superblock.message_indexes
            )
        return self._messages

    # -- links ----------------------------------------------------------------------------------------------

    def links(self, address: int) -> list[Link]:
        """The entries of a group: in order of creation where the file has an index of it, else by name."""
        with Reading(self.name, "the group", address):
            return checked(self._group(address).links())

    def link(self, address: int, name: str) -> Link | None:
        """The entry of that name of a group, without listing the others; None if there is none."""
        with Reading(self.name, "the group", address):
            return self._group(address).find(name.encode("utf-8", "surrogateescape"))

    def _group(self, address: int) -> Links:
        group = self._groups.get(address)
        if group is None:
            header = self.header(address)
            self._claim(links_address(header), address)
            group = open_group(self._metadata, header, self.superblock.group_k)
            if len(self._groups) >= _MAX_KEPT_GROUPS:
                self._groups.clear()
            self._groups[address] = group
        return group

    def _claim(self, structure: int, owner: int) -> None:
        """Note that a structure belongs to an object. Raises Damaged if it belongs to another: a file with many such
        would take time and memory without end."""
        other = self._owners.setdefault(structure, owner)
        if other != owner and structure != UNDEFINED:
            raise Damaged(f"what lies at {structure} belongs to the object at {other} too")

    def paths(self, most: int = 1_000_000) -> dict[int, str]:
        """A path of each object that hard links lead to, by the address of its header; of several the shortest.

        What is damaged is left out, with all that only it leads to.
        """
        found, level = {self.root: "/"}, [self.root]
        while level and len(found) < most:
            self.prefetch(level)
            below = []
            for address in level:
                for link in self._links_of_group(address):
                    if link.kind == "hard" and link.address not in found and len(found) < most:
                        found[link.address] = posixpath.join(found[address], link.name)
                        below.append(link.address)
            level = below
        return found

    def _links_of_group(self, address: int) -> list[Link]:
        """The links of an object; none if it is no sound group."""
        try:
            return self.links(address) if self.kind(address) == "group" else []
        except FormatError:
            return []

    def resolve(self, path: str) -> Place:
        """The object at `path`, with its path without soft links.

        Raises MissingNodeError where it leads nowhere or in circles, ExternalLinkError where it leaves the file.
        """
        parent, todo = Place("/", self.root), deque(_components(path))
        followed = 0
        while todo:
            name = todo.popleft()
            here = posixpath.join(parent.path, name)
            link = self.link(parent.address, name) if self.kind(parent.address) == "group" else None
            if link is None:
                way = f" (on the way of the links from {shortened(path)!r})" if followed else ""
                raise MissingNodeError(f"{self.name}: there is no {shortened(here)!r}{way}{self._suggestion(parent)}")
            if link.kind == "hard":
                parent = Place(here, link.address)
            elif link.kind == "soft":
                followed += 1
                if followed > MAX_SOFT_LINKS:
                    raise MissingNodeError(f"{self.name}: the soft link {shortened(here)!r} leads in circles")
                if link.target.startswith("/"):
                    parent = Place("/", self.root)
                todo.extendleft(reversed(_components(link.target)))
            elif link.kind == "external":
                file, _, inside = link.target.partition("\0")
                target = ExternalTarget(file, posixpath.join("/", inside, *todo))
                raise ExternalLinkError(
                    f"{self.name}: {shortened(here)!r} is an external link to {printable(f'{file}:{target.path}')}",
                    target,
                )
            else:
                raise MissingNodeError(f"{self.name}: {shortened(here)!r} is a link of a kind that is unknown here")
        return parent

    def _suggestion(self, group: Place, most: int = 8) -> str:
        if self.kind(group.address) != "group":
            return f"; {shortened(group.path)!r} is an array, not a group"
        address, listed = self._suggested
        if address != group.address:  # many links may lead nowhere, and listing a group takes long
            names = [shortened(link.name) for link in self.links(group.address)]
            listed = ", ".join(map(repr, names[:most])) + (", ..." if len(names) > most else "")
            self._suggested = group.address, listed
        return f"; {shortened(group.path)!r} has {listed}" if listed else f"; {shortened(group.path)!r} is empty"

    # -- datasets -------------------------------------------------------------------------------------------

    def dataset(self, address: int) -> DatasetInfo:
        """What the dataset with its header at `address` is; no data, no attribute is read."""
        header = self.header(address)
        with Reading(self.name, "the dataset", address):
            bodies = {
                kind: self._unshared(kind, body) if shared else body
                for kind, shared, body in reversed(header.messages)  # of two of a type the first counts, as in HDF5
                if kind in _OF_DATASETS
            }
            for kind, what in ((DATATYPE, "datatype"), (DATASPACE, "dataspace"), (DATA_LAYOUT, "data layout")):
                if kind not in bodies:
                    raise Damaged(f"it has no {what} message")
            body = bodies[DATA_LAYOUT]
            place = address_place(body)
            if place is None or EXTERNAL_FILES in bodies or len(body) < place + 8:
                return self._described(address, bodies)
            where = int.from_bytes(body[place : place + 8], "little")
            bodies[DATA_LAYOUT] = body[:place] + body[place + 8 :]  # where the data are is all in which many differ
            key = (where == UNDEFINED, *bodies.items())
            known = self._datasets.get(key)
            if known is not None:
                return like(known, address, self.superblock.base, where)
            found = self._described(address, {**bodies, DATA_LAYOUT: body})
            if len(self._datasets) < _MAX_KEPT_VALUES and sum(map(len, bodies.values())) <= 4 * _MAX_KEPT_BODY:
                self._datasets[key] = found
            return found

    def _described(self, address: int, bodies: dict[int, bytes]) -> DatasetInfo:
        layout = decode_layout(bodies[DATA_LAYOUT], self.superblock.chunk_k)
        return describe(
            address,
            self.superblock.base,
            _datatype(bodies[DATATYPE]),
            _extent(bodies[DATASPACE]),
            layout,
            filters=_pipeline(bodies[FILTER_PIPELINE]) if FILTER_PIPELINE in bodies else _NO_FILTERS,
            fill=_fill_value(bodies),
            external_files=self._external_files(bodies.get(EXTERNAL_FILES)),
            mappings=self._mappings(layout),
        )

    def datatype(self, address: int) -> Datatype:
        """The committed datatype with its header at `address`."""
        message = self.header(address).first(DATATYPE)
        with Reading(self.name, "the datatype", address):
            if message is None:
                raise Damaged("it has no datatype message")
            return _datatype(self._body(message))

    def _external_files(self, body: bytes | None) -> tuple[ExternalFile, ...]:
        if body is None:
            return ()
        from .external_files import decode_external_files, heap_address  # late, as few files need it

        return decode_external_files(body, read_local_heap(self._metadata, heap_address(body)))

    def _mappings(self, layout: Layout) -> tuple[Mapping, ...]:
        if layout.kind != "virtual" or layout.address is None:
            return ()
        from .virtual import decode_mappings  # late, as few files need it

        return decode_mappings(self._global_heap.get(layout.address, layout.heap_index))

    def fill_value(self, info: DatasetInfo) -> Value | None:
        """The fill value of a dataset as `attributes` would give an attribute of one element; None if undefined."""
        if info.fill_value is None:
            return None
        with Reading(self.name, "the fill value of the dataset", info.address):
            return self.value(info.datatype, (), info.fill_value)

    def value(self, datatype: Datatype, shape: tuple[int, ...], data: bytes) -> Value:
        """Stored elements, with the values of variable length that they refer to.

        Raises FormatError or ValueError for bytes that make no sense.
        """
        return decode_value(datatype, shape, data, self._global_heap.get, self._metadata.size)

    def region_target(self, heap: int, number: int) -> int:
        """The address of the object that a reference to a region leads to; 0 for none (VIII.B)."""
        return int.from_bytes(taken(self._global_heap.get(heap, number), 0, 8), "little") if heap else 0

    # -- attributes -----------------------------------------------------------------------------------------

    def attributes(self, address: int) -> dict[str, RawAttribute]:
        """All attributes of an object by name (bytes that are not UTF-8 as surrogates).

        One that is damaged is Unreadable, under a name of its own if even that is lost.
        """
        header = self.header(address)
        known, found = self._attributes, dict[str, RawAttribute]()
        info: bytes | None = None
        for kind, shared, body in header.messages:
            if kind == ATTRIBUTE:
                pair = None if shared else known.get(body)
                name, attribute = pair or self._attribute(body, shared, len(found))
                found[name] = attribute
            elif kind == ATTRIBUTE_INFO and info is None:
                info = body
        if info is not None:
            with Reading(self.name, "the attributes of the object", address):
                where = _kept_attribute_info(info)
                if where.heap != UNDEFINED:
                    self._add_dense(where, address, found)
        return found

    def _add_dense(self, info: AttributeInfo, address: int, found: dict[str, RawAttribute]) -> None:
        self._claim(info.heap, address)
        heap, tree = self._dense.pop(info.heap) if info.heap in self._dense else self._open_dense(info)
        records = list(tree.records())
        if info.creation_order_tracked:
            records.sort(key=lambda record: record[12:8:-1])  # a number of four bytes, the lowest first
        left = self._metadata.size
        for record in records:
            shared = bool(record[8] & 2)
            try:
                body = self._shared_messages().get(ATTRIBUTE, record[:8]) if shared else heap.get(record[:8])
                left -= len(body)
                if left < 0:
                    raise Damaged("it shares its bytes with others")
            except (*OF_WRONG_BYTES, FormatError) as error:
                found[_nameless(len(found))] = _unreadable(error)
                continue
            name, attribute = self._attribute(body, False, len(found))
            found[name] = attribute

    def _open_dense(self, info: AttributeInfo) -> tuple[FractalHeap, BTreeV2]:
        return FractalHeap(self._metadata, info.heap), BTreeV2(self._metadata, info.names, ATTRIBUTE_NAMES)

    def prefetch_attributes(self, addresses: Iterable[int]) -> None:
        """Read and check what the `attributes` of many objects need that is not in their headers.

        Those of damaged objects are left to whoever asks for them.
        """
        infos = list[AttributeInfo]()
        for address in addresses:
            header = self._headers.get(address)
            if isinstance(header, ObjectHeader) and ATTRIBUTE_INFO in header.types:
                message = header.first(ATTRIBUTE_INFO)
                try:
                    info = _kept_attribute_info(message.body if message else b"")
                except OF_WRONG_BYTES:
                    continue
                if info.heap != UNDEFINED and len(infos) < _MAX_DENSE:
                    infos.append(info)
        heads = [(info.heap, FractalHeap.HEADER_BYTES) for info in infos]
        roots = [(info.names, BTreeV2.HEADER_BYTES) for info in infos]
        self._metadata.prefetch([*heads, *roots])
        self._metadata.verify(heads)
        self._metadata.verify(roots)
        trees, blocks = list[tuple[int, int]](), dict[int, list[tuple[int, int]]]()
        for info in infos:
            try:
                heap, tree = self._dense[info.heap] = self._open_dense(info)
                trees += tree.extents()
                blocks.setdefault(heap.gap, []).extend(heap.extents())
            except (*OF_WRONG_BYTES, FormatError):
                continue
        self._metadata.prefetch([*trees, *chain.from_iterable(blocks.values())])
        self._metadata.verify(trees)
        for gap, extents in blocks.items():
            self._metadata.verify(extents, gap)

    def _attribute(self, body: bytes, shared: bool, number: int) -> tuple[str, RawAttribute]:
        name = _nameless(number)
        try:
            body = self._unshared(ATTRIBUTE, body) if shared else body
            start = data_start(body)
            head = body[:start]
            form = self._forms.get(head)
            if form is None:
                parts = decode_head(head)
                name = parts.name or name
                form = self._form(head, parts)
            name = form.name or name
            pair = name, self._raw_attribute(form, body[start:])
        except (*OF_WRONG_BYTES, FormatError) as error:
            return name, _unreadable(error)
        if form.datatype.kind in ("text", "vlen"):
            self._variable_bytes += size_of_objects(pair[1].value)
        elif shared or len(body) > _MAX_KEPT_BODY or len(self._attributes) >= _MAX_KEPT_VALUES:
            return pair
        if not shared:
            self._attributes[body] = pair
        return pair

    def _form(self, head: bytes, parts: AttributeHead) -> _Form:
        """What the attribute messages that begin with these bytes are: many objects have attributes of one name."""
        stored, space = parts.datatype, parts.dataspace
        if parts.datatype_shared:
            stored = self._unshared(DATATYPE, stored)
        if parts.dataspace_shared:
            space = self._unshared(DATASPACE, space)
        form = _Form.of(parts.name, _datatype(stored), _extent(space)[0])
        if len(head) <= _MAX_KEPT_BODY and len(self._forms) < _MAX_KEPT_VALUES:
            self._forms[head] = form
        return form

    def _raw_attribute(self, form: _Form, data: bytes) -> RawAttribute:
        datatype, shape = form.datatype, form.shape
        if shape is None:
            return RawAttribute(None, datatype)
        if form.dtype is not None:
            values = np.frombuffer(taken(data, 0, form.size), form.dtype)
            return RawAttribute(values.reshape(shape + datatype.shape), datatype)
        left = self._metadata.size - self._variable_bytes  # each value has its own bytes in the file
        return RawAttribute(decode_value(datatype, shape, data, self._global_heap.get, left), datatype)


_OF_DATASETS: Final = frozenset(
    (DATATYPE, DATASPACE, DATA_LAYOUT, FILTER_PIPELINE, FILL_VALUE, OLD_FILL_VALUE, EXTERNAL_FILES)
)
_NO_FILTERS: Final = FilterPipeline()

# a file has many arrays and attributes but few types, shapes and pipelines
_kept_datatype = lru_cache(1024)(decode_datatype)
_kept_extent = lru_cache(1024)(decode_dataspace)
_kept_attribute_info = lru_cache(256)(decode_attribute_info)
_kept_pipeline = lru_cache(256)(decode_filter_pipeline)


def _datatype(body: bytes) -> Datatype:
    return _kept_datatype(body) if len(body) <= _MAX_KEPT_BODY else decode_datatype(body)


def _extent(body: bytes) -> Extent:
    return _kept_extent(body) if len(body) <= _MAX_KEPT_BODY else decode_dataspace(body)


def _pipeline(body: bytes) -> FilterPipeline:
    return _kept_pipeline(body) if len(body) <= _MAX_KEPT_BODY else decode_filter_pipeline(body)


def _fill_value(bodies: dict[int, bytes]) -> FillValue:
    if FILL_VALUE in bodies:
        return decode_fill_value(bodies[FILL_VALUE])
    return decode_old_fill_value(bodies[OLD_FILL_VALUE]) if OLD_FILL_VALUE in bodies else "default"


def _nameless(number: int) -> str:
    return f"<damaged attribute {number}>"


def _unreadable(error: BaseException) -> RawAttribute:
    what = reason(error)
    return RawAttribute(Unreadable(what, damaged=True), Datatype("unsupported", None, 1, reason=what))


def _components(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]
