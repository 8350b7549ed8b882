from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelOutline(_message.Message):
    __slots__ = ("ir_version", "graph", "opset_import", "training_info", "functions")
    IR_VERSION_FIELD_NUMBER: _ClassVar[int]
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    OPSET_IMPORT_FIELD_NUMBER: _ClassVar[int]
    TRAINING_INFO_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    ir_version: int
    graph: GraphOutline
    opset_import: _containers.RepeatedCompositeFieldContainer[OpsetOutline]
    training_info: _containers.RepeatedCompositeFieldContainer[Opaque]
    functions: _containers.RepeatedCompositeFieldContainer[Opaque]
    def __init__(self, ir_version: _Optional[int] = ..., graph: _Optional[_Union[GraphOutline, _Mapping]] = ..., opset_import: _Optional[_Iterable[_Union[OpsetOutline, _Mapping]]] = ..., training_info: _Optional[_Iterable[_Union[Opaque, _Mapping]]] = ..., functions: _Optional[_Iterable[_Union[Opaque, _Mapping]]] = ...) -> None: ...

class OpsetOutline(_message.Message):
    __slots__ = ("domain", "version")
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    domain: str
    version: int
    def __init__(self, domain: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GraphOutline(_message.Message):
    __slots__ = ("node", "initializer", "sparse_initializer")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INITIALIZER_FIELD_NUMBER: _ClassVar[int]
    SPARSE_INITIALIZER_FIELD_NUMBER: _ClassVar[int]
    node: _containers.RepeatedCompositeFieldContainer[NodeOutline]
    initializer: _containers.RepeatedCompositeFieldContainer[TensorOutline]
    sparse_initializer: _containers.RepeatedCompositeFieldContainer[Opaque]
    def __init__(self, node: _Optional[_Iterable[_Union[NodeOutline, _Mapping]]] = ..., initializer: _Optional[_Iterable[_Union[TensorOutline, _Mapping]]] = ..., sparse_initializer: _Optional[_Iterable[_Union[Opaque, _Mapping]]] = ...) -> None: ...

class NodeOutline(_message.Message):
    __slots__ = ("op_type", "attribute", "domain")
    OP_TYPE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    op_type: str
    attribute: _containers.RepeatedCompositeFieldContainer[AttributeOutline]
    domain: str
    def __init__(self, op_type: _Optional[str] = ..., attribute: _Optional[_Iterable[_Union[AttributeOutline, _Mapping]]] = ..., domain: _Optional[str] = ...) -> None: ...

class AttributeOutline(_message.Message):
    __slots__ = ("name", "t", "g", "tensors", "graphs", "sparse_tensor", "sparse_tensors")
    NAME_FIELD_NUMBER: _ClassVar[int]
    T_FIELD_NUMBER: _ClassVar[int]
    G_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    GRAPHS_FIELD_NUMBER: _ClassVar[int]
    SPARSE_TENSOR_FIELD_NUMBER: _ClassVar[int]
    SPARSE_TENSORS_FIELD_NUMBER: _ClassVar[int]
    name: str
    t: TensorOutline
    g: Opaque
    tensors: _containers.RepeatedCompositeFieldContainer[TensorOutline]
    graphs: _containers.RepeatedCompositeFieldContainer[Opaque]
    sparse_tensor: Opaque
    sparse_tensors: _containers.RepeatedCompositeFieldContainer[Opaque]
    def __init__(self, name: _Optional[str] = ..., t: _Optional[_Union[TensorOutline, _Mapping]] = ..., g: _Optional[_Union[Opaque, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[TensorOutline, _Mapping]]] = ..., graphs: _Optional[_Iterable[_Union[Opaque, _Mapping]]] = ..., sparse_tensor: _Optional[_Union[Opaque, _Mapping]] = ..., sparse_tensors: _Optional[_Iterable[_Union[Opaque, _Mapping]]] = ...) -> None: ...

class TensorOutline(_message.Message):
    __slots__ = ("dims", "data_type", "float_data", "name", "raw_data", "external_data", "data_location")
    DIMS_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    FLOAT_DATA_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RAW_DATA_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_DATA_FIELD_NUMBER: _ClassVar[int]
    DATA_LOCATION_FIELD_NUMBER: _ClassVar[int]
    dims: _containers.RepeatedScalarFieldContainer[int]
    data_type: int
    float_data: _containers.RepeatedScalarFieldContainer[float]
    name: str
    raw_data: bytes
    external_data: _containers.RepeatedCompositeFieldContainer[Opaque]
    data_location: int
    def __init__(self, dims: _Optional[_Iterable[int]] = ..., data_type: _Optional[int] = ..., float_data: _Optional[_Iterable[float]] = ..., name: _Optional[str] = ..., raw_data: _Optional[bytes] = ..., external_data: _Optional[_Iterable[_Union[Opaque, _Mapping]]] = ..., data_location: _Optional[int] = ...) -> None: ...

class Opaque(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
