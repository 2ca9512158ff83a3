"""The keys that NeMo RL's types name for a GRPO run, read from its source: importing it would need torch and ray.

The types are TypedDicts and pydantic models, below `nemo_rl.algorithms.grpo.MasterConfig`; what a generation backend
adds below policy.generation is in types of its own, which MasterConfig does not mention.

griffe would follow imports for it (some 60 lines of this), after reading the whole package and not the files that are
named; what an annotation allows, what is required, and pydantic's defaults would stay here.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp.errors import UserError

ROOT = ("nemo_rl.algorithms.grpo", "MasterConfig")
GENERATION = "policy.generation"
#: Types of the generation backends; one that a version lacks is left out.
BACKENDS = (
    ("nemo_rl.models.generation.vllm.config", "VllmConfig"),
    ("nemo_rl.models.generation.sglang.config", "SGLangConfig"),
)
_PLAIN = {"str": "str", "int": "int", "float": "float", "bool": "bool"}
#: pydantic's numbers with bounds.
_PLAIN |= {f"{sign}Int": "int" for sign in ("Positive", "NonNegative", "Negative", "NonPositive", "Strict")}
_PLAIN |= {f"{sign}Float": "float" for sign in ("Positive", "NonNegative", "Negative", "NonPositive", "Strict")}
_PLAIN |= {"StrictStr": "str", "StrictBool": "bool"}
_MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping", "defaultdict"}
_LISTS = {"list", "List", "Sequence", "tuple", "Tuple", "set"}
_ALTERNATIVE = " (one alternative)"


class Unreadable(Exception):
    """Source that this reader does not understand, or a name that the checkout does not define."""


@dataclass(frozen=True)
class Field:
    """One annotated name of a class: its annotation, whether it must be given, and its default as source."""

    name: str
    annotation: ast.expr
    module: str
    required: bool
    default: ast.expr | None


@dataclass(frozen=True)
class Kind:
    """What an annotation allows.

    Parameters
    ----------
    names: as shown (`str`, `mapping`, `list[int]`, `enum('a'|'b')`, ...), without None
    classes: the typed mappings among them, as (suffix of the key, module, class); the suffix is `[]` for an element of
        a list, `.*` for a value of a mapping
    """

    names: tuple[str, ...]
    nullable: bool
    open: bool
    classes: tuple[tuple[str, str, str], ...]


def read(checkout: Path) -> dict[str, dict[str, Any]]:
    """Dotted key -> {type, required, nullable, open, declared_in, default?, backend_only?} of a checkout.

    `[]` in a key stands for any element of a list, `.*` for any key of a mapping. required: inside its parent, and
    where the parent has alternatives, in those that declared_in names. open: what lies below is free.

    Raises
    ------
    UserError: the checkout has no such types, or they are written in a way that is not understood
    """
    source = Source(checkout)
    try:
        keys: dict[str, dict[str, Any]] = {}
        source.walk("", *ROOT, keys, "", ())
        if f"{GENERATION}.backend" in keys:
            for backend in BACKENDS:
                _add_backend(source, backend, keys)
    except Unreadable as error:
        raise UserError(
            f"{checkout}: {error}",
            "the known keys are read from the types that NeMo RL declares there",
            "name a checkout of NeMo RL v0.5.0 or later; a later one may need a change in recipes/typed_dicts.py",
        ) from error
    return dict(sorted(keys.items()))


def _add_backend(source: Source, backend: tuple[str, str], keys: dict[str, dict[str, Any]]) -> None:
    module, name = backend
    if source.file(module) is None:
        return
    below: dict[str, dict[str, Any]] = {}
    source.walk(GENERATION, module, name, below, "", ())
    for key, entry in below.items():
        if key in keys and "backend_only" not in keys[key]:
            keys[key]["declared_in"] = sorted({*keys[key]["declared_in"], *entry["declared_in"]})
        elif key in keys:
            _merge(keys[key], entry)
            keys[key]["backend_only"] = sorted({*keys[key]["backend_only"], name})
        else:
            keys[key] = {**entry, "backend_only": [name]}


def _merge(entry: dict[str, Any], other: dict[str, Any]) -> None:
    for field in ("type", "declared_in"):
        entry[field] = sorted({*entry[field], *other[field]})
    for field in ("required", "nullable", "open"):
        entry[field] = entry[field] or other[field]


class Source:
    """The Python files of a checkout."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self._modules: dict[str, Module] = {}

    def file(self, module: str) -> Path | None:
        """The file of a module; None where the checkout has none (a module of another package)."""
        stem = self.checkout / module.replace(".", "/")
        return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)

    def module(self, name: str) -> Module:
        if name not in self._modules:
            path = self.file(name)
            if path is None:
                raise Unreadable(f"it has no module {name}")
            try:
                self._modules[name] = Module(name, ast.parse(path.read_text()), path.name == "__init__.py")
            except (OSError, SyntaxError, ValueError) as error:
                raise Unreadable(f"{path} cannot be read ({error})") from error
        return self._modules[name]

    def resolve(self, module: str, name: str) -> tuple[Module, ast.expr | ast.ClassDef] | None:
        """Follow a name through imports to its class or alias; None when it comes from another package."""
        for _ in range(20):
            here = self.module(module)
            if name in here.classes:
                return here, here.classes[name]
            if name in here.aliases:
                return here, here.aliases[name]
            if name not in here.imports:
                return None
            module, name = here.imports[name]
            if self.file(module) is None:
                return None
        raise Unreadable(f"the imports of {name} in {module} go round in a circle")

    def fields(self, module: str, name: str) -> list[Field]:
        """A class's fields, its bases' first; a field declared again replaces the earlier one."""
        definition = self.resolve(module, name)
        if definition is None or not isinstance(cls := definition[1], ast.ClassDef):
            raise Unreadable(f"{module} has no class {name}")
        here = definition[0]
        fields: dict[str, Field] = {}
        for base in cls.bases:
            if isinstance(base, ast.Name) and self._is_class(here.name, base.id):
                fields |= {field.name: field for field in self.fields(here.name, base.id)}
        typed = self.is_typed_dict(here.name, cls)
        total = not any(k.arg == "total" and getattr(k.value, "value", True) is False for k in cls.keywords)
        for line in cls.body:
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
                continue
            annotation, marked = _unwrap(_unquoted(line.annotation))
            if _head(annotation) == "ClassVar":
                continue
            if typed:
                required, default = total if marked is None else marked, None
            else:
                default = _default(line.value)
                required = line.value is None or default is ...
                default = None if default is ... else default
            fields[line.target.id] = Field(line.target.id, annotation, here.name, required, default)
        return list(fields.values())

    def _is_class(self, module: str, name: str) -> bool:
        definition = self.resolve(module, name)
        return definition is not None and isinstance(definition[1], ast.ClassDef)

    def is_typed_dict(self, module: str, cls: ast.ClassDef) -> bool:
        """Whether a class is a TypedDict by one of its bases; the others here are pydantic's."""
        for base in cls.bases:
            if _head(base) == "TypedDict":
                return True
            parent = self.resolve(module, base.id) if isinstance(base, ast.Name) else None
            if parent and isinstance(parent[1], ast.ClassDef) and self.is_typed_dict(parent[0].name, parent[1]):
                return True
        return False

    def _is_mapping(self, module: str, cls: ast.ClassDef) -> bool:
        """Whether a class is a TypedDict or a pydantic model, which a YAML section fills."""
        for base in cls.bases:
            if _head(base) in ("TypedDict", "BaseModel"):
                return True
            parent = self.resolve(module, base.id) if isinstance(base, ast.Name) else None
            if parent and isinstance(parent[1], ast.ClassDef) and self._is_mapping(parent[0].name, parent[1]):
                return True
        return False

    def kind(self, annotation: ast.expr, module: str) -> Kind:
        """Read an annotation, with aliases and imports followed."""
        annotation, _ = _unwrap(_unquoted(annotation))
        head, args = _head(annotation), _args(annotation)
        if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
            return _union([self.kind(side, module) for side in (annotation.left, annotation.right)])
        if head in ("Union", "Optional"):
            kinds = [self.kind(arg, module) for arg in args]
            return _union([*kinds, *([_NONE] if head == "Optional" else [])])
        if isinstance(annotation, ast.Constant) and annotation.value is None:
            return _NONE
        if head == "Annotated":
            return self.kind(args[0], module)
        if head == "Literal":
            return Kind((f"enum({'|'.join(ast.unparse(a) for a in args)})",), False, False, ())
        if head == "Any":
            return _ANY
        if head in _PLAIN:
            return Kind((_PLAIN[head],), False, False, ())
        if head in _MAPPINGS:
            value = self.kind(args[-1], module) if args else _ANY
            key = "|".join(self.kind(args[0], module).names) if args else "str"
            below = tuple((f".*{suffix}", m, c) for suffix, m, c in value.classes)
            return Kind((f"dict[{key},{_element(value)}]",), False, True, below)
        if head in _LISTS:
            value = self.kind(args[0], module) if args else _ANY
            below = tuple((f"[]{suffix}", m, c) for suffix, m, c in value.classes)
            return Kind((f"list[{_element(value)}]",), False, value.open, below)
        definition = self.resolve(module, annotation.id) if isinstance(annotation, ast.Name) else None
        if definition is None:
            return Kind((ast.unparse(annotation),), False, False, ())
        here, target = definition
        if isinstance(target, ast.ClassDef):
            if self._is_mapping(here.name, target):
                return Kind(("mapping",), False, False, (("", here.name, target.name),))
            return Kind((target.name,), False, False, ())
        return self.kind(target, here.name)

    def walk(
        self,
        prefix: str,
        module: str,
        name: str,
        keys: dict[str, dict[str, Any]],
        note: str,
        above: tuple[tuple[str, str], ...],
    ) -> None:
        """Add the keys of a class, and of the classes below it, to `keys`."""
        if (module, name) in above:  # a type that holds itself
            return
        for field in self.fields(module, name):
            key = f"{prefix}.{field.name}" if prefix else field.name
            kind = self.kind(field.annotation, field.module)
            entry: dict[str, Any] = {
                "type": sorted(set(kind.names)),
                "required": field.required,
                "nullable": kind.nullable,
                "open": kind.open,
                "declared_in": [name + note],
            }
            if not field.required and field.default is not None:
                entry["default"] = _literal(field.default)
            if key in keys:
                _merge(keys[key], entry)
            else:
                keys[key] = entry
            for suffix, below_module, below_name in kind.classes:
                several = len([c for c in kind.classes if c[0] == suffix]) > 1
                several = several and suffix == ""
                self.walk(
                    key + suffix,
                    below_module,
                    below_name,
                    keys,
                    _ALTERNATIVE if several else "",
                    (*above, (module, name)),
                )


class Module:
    """The names that one file defines: classes, aliases, and what it imports from where."""

    def __init__(self, name: str, tree: ast.Module, package: bool) -> None:
        self.name = name
        self.classes: dict[str, ast.ClassDef] = {}
        self.aliases: dict[str, ast.expr] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        self._package = name if package else name.rpartition(".")[0]
        self._read(tree.body)

    def _read(self, body: list[ast.stmt]) -> None:
        for line in body:
            if isinstance(line, ast.ClassDef):
                self.classes[line.name] = line
            elif isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
                self.aliases[line.targets[0].id] = line.value
            elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
                self.aliases[line.target.id] = line.value
            elif isinstance(line, ast.ImportFrom):
                for alias in line.names:
                    self.imports[alias.asname or alias.name] = (self._from(line), alias.name)
            elif isinstance(line, ast.If):  # `if TYPE_CHECKING:`
                self._read([*line.body, *line.orelse])
            elif isinstance(line, ast.Try):
                self._read([*line.body, *(inner for handler in line.handlers for inner in handler.body), *line.orelse])

    def _from(self, line: ast.ImportFrom) -> str:
        if not line.level:
            return line.module or ""
        parts = self._package.split(".")
        parts = parts[: len(parts) - line.level + 1]
        return ".".join([*parts, line.module] if line.module else parts)


_NONE = Kind((), True, False, ())
_ANY = Kind(("any",), True, True, ())


def _union(kinds: list[Kind]) -> Kind:
    names = tuple(dict.fromkeys(name for kind in kinds for name in kind.names))
    classes = tuple(dict.fromkeys(cls for kind in kinds for cls in kind.classes))
    return Kind(names, any(k.nullable for k in kinds), any(k.open for k in kinds), classes)


def _element(kind: Kind) -> str:
    """How an element's type is shown inside list[...] and dict[...]: typed mappings by their names."""
    if kind == _ANY:
        return "any"
    names = [name for name in kind.names if name != "mapping"]
    names += [cls for suffix, _, cls in kind.classes if suffix == ""]
    return "|".join(sorted(names) + (["None"] if kind.nullable else []))


def _unquoted(annotation: ast.expr) -> ast.expr:
    """`"Name"` as `Name`."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def _unwrap(annotation: ast.expr) -> tuple[ast.expr, bool | None]:
    """Take NotRequired[...], Required[...] and ReadOnly[...] off; None where none of the first two stood there."""
    marked = None
    while (head := _head(annotation)) in ("NotRequired", "Required", "ReadOnly", "Final"):
        marked = {"NotRequired": False, "Required": True}.get(head, marked)
        annotation = _unquoted(_args(annotation)[0])
    return annotation, marked


def _head(annotation: ast.expr) -> str:
    """The last word of what stands before the brackets: `typing.Optional[int]` is `Optional`."""
    node = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _args(annotation: ast.expr) -> list[ast.expr]:
    if not isinstance(annotation, ast.Subscript):
        return []
    return list(annotation.slice.elts) if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]


def _default(value: ast.expr | None) -> Any:
    """The default's source; `...` when pydantic would ask for a value; a factory is the call of it."""
    if isinstance(value, ast.Constant) and value.value is ...:
        return ...
    if isinstance(value, ast.Call) and _head(value.func) == "Field":
        named = {k.arg: k.value for k in value.keywords}
        if "default_factory" in named:
            factory = named["default_factory"]
            return factory.body if isinstance(factory, ast.Lambda) else ast.Call(factory, [], [])
        inner = named.get("default", value.args[0] if value.args else None)
        return ... if inner is None else _default(inner)
    return value


def _literal(default: ast.expr) -> Any:
    """A default as data; `{}` and `[]` for the factories dict and list, and the source text where it is code."""
    if isinstance(default, ast.Call) and not default.args and not default.keywords:
        name = _head(default.func)
        return {"dict": {}, "list": []}.get(name, f"{name}()")
    try:
        return ast.literal_eval(default)
    except ValueError:
        pass
    try:  # 512 * 1024**2
        value = _arithmetic(default)
    except ValueError:
        return ast.unparse(default)
    return value


_OPERATORS: dict[type, Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Pow: lambda a, b: a**b,
    ast.LShift: lambda a, b: a << b,
}


def _arithmetic(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_arithmetic(node.left), _arithmetic(node.right))
    raise ValueError("not arithmetic")
