from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ActRequest(_message.Message):
    __slots__ = ("model", "version", "agent_id", "obs", "avail_actions", "last_action", "hidden", "want_q_values", "sequence")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    OBS_FIELD_NUMBER: _ClassVar[int]
    AVAIL_ACTIONS_FIELD_NUMBER: _ClassVar[int]
    LAST_ACTION_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    WANT_Q_VALUES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    agent_id: int
    obs: bytes
    avail_actions: bytes
    last_action: int
    hidden: bytes
    want_q_values: bool
    sequence: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., agent_id: _Optional[int] = ..., obs: _Optional[bytes] = ..., avail_actions: _Optional[bytes] = ..., last_action: _Optional[int] = ..., hidden: _Optional[bytes] = ..., want_q_values: bool = ..., sequence: _Optional[int] = ...) -> None: ...

class ActResponse(_message.Message):
    __slots__ = ("action", "next_hidden", "q_values", "model", "version", "sequence")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    NEXT_HIDDEN_FIELD_NUMBER: _ClassVar[int]
    Q_VALUES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    action: int
    next_hidden: bytes
    q_values: bytes
    model: str
    version: int
    sequence: int
    def __init__(self, action: _Optional[int] = ..., next_hidden: _Optional[bytes] = ..., q_values: _Optional[bytes] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class Episode(_message.Message):
    __slots__ = ("model", "version", "agent_id", "hidden", "last_action")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    LAST_ACTION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    agent_id: int
    hidden: bytes
    last_action: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., agent_id: _Optional[int] = ..., hidden: _Optional[bytes] = ..., last_action: _Optional[int] = ...) -> None: ...

class ActStreamRequest(_message.Message):
    __slots__ = ("begin", "obs", "avail_actions", "last_action", "want_next_hidden", "want_q_values", "sequence")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    OBS_FIELD_NUMBER: _ClassVar[int]
    AVAIL_ACTIONS_FIELD_NUMBER: _ClassVar[int]
    LAST_ACTION_FIELD_NUMBER: _ClassVar[int]
    WANT_NEXT_HIDDEN_FIELD_NUMBER: _ClassVar[int]
    WANT_Q_VALUES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    begin: Episode
    obs: bytes
    avail_actions: bytes
    last_action: int
    want_next_hidden: bool
    want_q_values: bool
    sequence: int
    def __init__(self, begin: _Optional[_Union[Episode, _Mapping]] = ..., obs: _Optional[bytes] = ..., avail_actions: _Optional[bytes] = ..., last_action: _Optional[int] = ..., want_next_hidden: bool = ..., want_q_values: bool = ..., sequence: _Optional[int] = ...) -> None: ...

class ActStreamResponse(_message.Message):
    __slots__ = ("action", "next_hidden", "q_values", "model", "version", "sequence")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    NEXT_HIDDEN_FIELD_NUMBER: _ClassVar[int]
    Q_VALUES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    action: int
    next_hidden: bytes
    q_values: bytes
    model: str
    version: int
    sequence: int
    def __init__(self, action: _Optional[int] = ..., next_hidden: _Optional[bytes] = ..., q_values: _Optional[bytes] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class TeamStreamRequest(_message.Message):
    __slots__ = ("begin", "units", "obs", "avail_actions", "last_actions", "want_next_hidden", "want_q_values", "sequence")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    OBS_FIELD_NUMBER: _ClassVar[int]
    AVAIL_ACTIONS_FIELD_NUMBER: _ClassVar[int]
    LAST_ACTIONS_FIELD_NUMBER: _ClassVar[int]
    WANT_NEXT_HIDDEN_FIELD_NUMBER: _ClassVar[int]
    WANT_Q_VALUES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    begin: TeamBegin
    units: _containers.RepeatedScalarFieldContainer[int]
    obs: bytes
    avail_actions: bytes
    last_actions: _containers.RepeatedScalarFieldContainer[int]
    want_next_hidden: bool
    want_q_values: bool
    sequence: int
    def __init__(self, begin: _Optional[_Union[TeamBegin, _Mapping]] = ..., units: _Optional[_Iterable[int]] = ..., obs: _Optional[bytes] = ..., avail_actions: _Optional[bytes] = ..., last_actions: _Optional[_Iterable[int]] = ..., want_next_hidden: bool = ..., want_q_values: bool = ..., sequence: _Optional[int] = ...) -> None: ...

class TeamBegin(_message.Message):
    __slots__ = ("model", "version", "units", "agent_ids", "hidden", "last_actions")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    AGENT_IDS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    LAST_ACTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    units: _containers.RepeatedScalarFieldContainer[int]
    agent_ids: _containers.RepeatedScalarFieldContainer[int]
    hidden: bytes
    last_actions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., units: _Optional[_Iterable[int]] = ..., agent_ids: _Optional[_Iterable[int]] = ..., hidden: _Optional[bytes] = ..., last_actions: _Optional[_Iterable[int]] = ...) -> None: ...

class TeamStreamResponse(_message.Message):
    __slots__ = ("actions", "next_hidden", "q_values", "model", "version", "sequence", "fault")
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_HIDDEN_FIELD_NUMBER: _ClassVar[int]
    Q_VALUES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    actions: _containers.RepeatedScalarFieldContainer[int]
    next_hidden: bytes
    q_values: bytes
    model: str
    version: int
    sequence: int
    fault: TeamFault
    def __init__(self, actions: _Optional[_Iterable[int]] = ..., next_hidden: _Optional[bytes] = ..., q_values: _Optional[bytes] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., sequence: _Optional[int] = ..., fault: _Optional[_Union[TeamFault, _Mapping]] = ...) -> None: ...

class TeamFault(_message.Message):
    __slots__ = ("code", "reason", "message", "field", "retry_after_s")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    field: str
    retry_after_s: int
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., retry_after_s: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "state", "reason", "latest", "map", "environment", "layout_sha256", "algorithm", "q_values_hold", "dims", "episode_limit", "unit_types", "win_rate", "sha256")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Model.State]
        STATE_READY: _ClassVar[Model.State]
        STATE_REFUSED: _ClassVar[Model.State]
        STATE_RETIRING: _ClassVar[Model.State]
    STATE_UNSPECIFIED: Model.State
    STATE_READY: Model.State
    STATE_REFUSED: Model.State
    STATE_RETIRING: Model.State
    class Dims(_message.Message):
        __slots__ = ("n_agents", "n_actions", "obs_dim", "hidden_dim")
        N_AGENTS_FIELD_NUMBER: _ClassVar[int]
        N_ACTIONS_FIELD_NUMBER: _ClassVar[int]
        OBS_DIM_FIELD_NUMBER: _ClassVar[int]
        HIDDEN_DIM_FIELD_NUMBER: _ClassVar[int]
        n_agents: int
        n_actions: int
        obs_dim: int
        hidden_dim: int
        def __init__(self, n_agents: _Optional[int] = ..., n_actions: _Optional[int] = ..., obs_dim: _Optional[int] = ..., hidden_dim: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LATEST_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_SHA256_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    Q_VALUES_HOLD_FIELD_NUMBER: _ClassVar[int]
    DIMS_FIELD_NUMBER: _ClassVar[int]
    EPISODE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    UNIT_TYPES_FIELD_NUMBER: _ClassVar[int]
    WIN_RATE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    state: Model.State
    reason: str
    latest: bool
    map: str
    environment: str
    layout_sha256: str
    algorithm: str
    q_values_hold: str
    dims: Model.Dims
    episode_limit: int
    unit_types: _containers.RepeatedScalarFieldContainer[str]
    win_rate: float
    sha256: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., state: _Optional[_Union[Model.State, str]] = ..., reason: _Optional[str] = ..., latest: bool = ..., map: _Optional[str] = ..., environment: _Optional[str] = ..., layout_sha256: _Optional[str] = ..., algorithm: _Optional[str] = ..., q_values_hold: _Optional[str] = ..., dims: _Optional[_Union[Model.Dims, _Mapping]] = ..., episode_limit: _Optional[int] = ..., unit_types: _Optional[_Iterable[str]] = ..., win_rate: _Optional[float] = ..., sha256: _Optional[str] = ...) -> None: ...
