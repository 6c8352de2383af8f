"""Reads an export with every reader that can be had here and compares it, row by row, with ClickHouse's own tables.

What is compared with is not computed by the exporter's queries: ClickHouse's columns come as they are and are converted here.
"""

import json
import logging
import pathlib
import re
import sys
import urllib.parse
import urllib.request
import uuid

import duckdb
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq
from pyiceberg.table import StaticTable

NAMES = {
    "events": ["stream", "partition", "sequence"],
    "days": ["date", "profile_id", "dimension", "value", "kind", "class", "link_id", "surface", "bucket"],
}
JUDGED = ["class", "reason", "rules_version"]
CLICKHOUSE_TYPES = {
    pa.int32(): "Int32",
    pa.int64(): "Int64",
    pa.bool_(): "Bool",
    pa.date32(): "Date32",
    pa.timestamp("us", "UTC"): "DateTime64(6, \\'UTC\\')",
    pa.string(): "String",
}


class ClickHouse:
    def __init__(self, address):
        u = urllib.parse.urlsplit(address)
        self.base = f"{u.scheme}://{u.hostname}:{u.port or 8123}/"
        self.database = u.path.strip("/") or "spillway"
        self.headers = {"X-ClickHouse-User": urllib.parse.unquote(u.username or "default")}
        if u.password:
            self.headers["X-ClickHouse-Key"] = urllib.parse.unquote(u.password)

    def ask(self, query, body=None, headers=None, **parameters):
        parameters = {
            "database": self.database,
            "output_format_arrow_compression_method": "none",
            "output_format_arrow_string_as_string": "1",
            "query": query + " FORMAT ArrowStream",
            **parameters,
        }
        request = urllib.request.Request(
            self.base + "?" + urllib.parse.urlencode(parameters), data=body if body is not None else b"", headers={**self.headers, **(headers or {})}
        )
        with urllib.request.urlopen(request) as response:
            data = response.read()
        return pa.ipc.open_stream(data).read_all() if data else None

    def read_parquet(self, path, schema):
        """Has ClickHouse read a Parquet file, sent to it as a table of the query."""
        structure = ", ".join(
            "`{}` {}".format(f.name, nullable(CLICKHOUSE_TYPES[plain(f.type)].replace("\\'", "'"), f.nullable)) for f in schema
        )
        boundary = uuid.uuid4().hex
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="published"; filename="published"\r\n\r\n'.encode()
            + pathlib.Path(path).read_bytes()
            + f"\r\n--{boundary}--\r\n".encode()
        )
        columns = ", ".join(f"`{f.name}`" for f in schema)
        return self.ask(
            f"SELECT {columns} FROM published",
            body,
            {"Content-Type": f"multipart/form-data; boundary={boundary}"},
            published_format="Parquet",
            published_structure=structure,
        )


def nullable(name, yes):
    return f"Nullable({name})" if yes else name


def plain(t):
    """The type that values of t are compared in."""
    if pa.types.is_dictionary(t):
        t = t.value_type
    if pa.types.is_large_string(t) or pa.types.is_string(t) or pa.types.is_string_view(t) or pa.types.is_binary(t):
        return pa.string()
    if pa.types.is_timestamp(t):
        return pa.timestamp("us", "UTC")
    return t


def normal(table, schema, keys):
    """The table in the schema's order and plain types, its rows sorted by their names."""
    columns = []
    for field in schema:
        column = table.column(field.name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        columns.append(column.cast(plain(field.type)))
    out = pa.table(columns, names=schema.names)
    return out.sort_by([(k, "ascending") for k in keys]).combine_chunks()


def hexadecimal(column):
    return pa.chunked_array([pa.array([format(v, "016x") for v in chunk.to_pylist()], pa.string()) for chunk in column.chunks], pa.string())


def expected(clickhouse, table, schema, days):
    """ClickHouse's own rows of a table, converted as the data dictionary says."""
    if table == "events":
        rows = clickhouse.ask(
            "SELECT * EXCEPT (term) REPLACE (toString(kind) AS kind, toString(class) AS class, toString(surface) AS surface) FROM events"
        )
        for name in ("stream", "visitor"):
            rows = rows.set_column(rows.schema.get_field_index(name), name, hexadecimal(rows.column(name)))
        return rows
    rows = clickhouse.ask(
        "SELECT * REPLACE (toString(kind) AS kind, toString(class) AS class, toString(surface) AS surface,"
        " toDateTime64(bucket, 6, 'UTC') AS bucket) FROM days"
    )
    buckets = pc.if_else(pc.equal(rows.column("dimension").cast(pa.string()), ""), rows.column("bucket"), pa.scalar(None, rows.column("bucket").type))
    rows = rows.set_column(rows.schema.get_field_index("bucket"), "bucket", buckets)
    dates = [d.isoformat() for d in rows.column("date").to_pylist()]
    closed = pa.array([days.get(d, "1970-01-01T00:00:00Z") for d in dates]).cast(pa.timestamp("us", "UTC"))
    return rows.append_column("closed_at", closed)


def manifests(root):
    """The chain, in order: what it lists is published, nothing else."""
    chain = [json.loads(p.read_text()) for p in sorted((root / "manifests").glob("*.json"))]
    for i, manifest in enumerate(chain):
        assert manifest["cut"] == i + 1, f"manifest {i + 1} is missing"
    return chain


def readers(clickhouse, root, paths, schema):
    absolute = [str(root / p) for p in paths]
    yield "pyarrow", lambda: pa.concat_tables([pq.read_table(p, partitioning=None) for p in absolute], promote_options="default")
    yield "DuckDB", lambda: duckdb.sql(f"SELECT * FROM read_parquet({absolute!r}, hive_partitioning = false)").to_arrow_table()
    yield "polars", lambda: polars.read_parquet(absolute, hive_partitioning=False).to_arrow()
    yield "ClickHouse", lambda: pa.concat_tables([clickhouse.read_parquet(p, schema) for p in absolute], promote_options="default")


def check(clickhouse, root, table, chain, judged):
    files = [f for m in chain for f in m["files"] if f["table"] == table]
    if not files:
        print(f"{table}: nothing is published")
        return True
    newest = {d["date"]: d for m in chain for d in m.get("days", [])}
    if table == "days":
        current = {p for d in newest.values() for p in d["files"]}
        files = [f for f in files if f["path"] in current]
    paths = [f["path"] for f in files]
    schema = pq.read_schema(root / paths[0])
    for path in paths:
        assert pq.read_schema(root / path).equals(schema), f"{path} has another schema"
    want = normal(expected(clickhouse, table, schema, {d: v["closed_at"] for d, v in newest.items()}), schema, NAMES[table])
    good = True
    for name, read in readers(clickhouse, root, paths, schema):
        got = normal(read(), schema, NAMES[table])
        same, but = got.equals(want), ""
        if not same and table == "events" and got.drop_columns(JUDGED).equals(want.drop_columns(JUDGED)):
            same, but = judged, ", but for what was judged anew since" if judged else ", unless it was judged anew since (--judged)"
        good = good and same
        print(f"{table}: {name}: {got.num_rows} rows, {'each as in ClickHouse' if same else 'NOT as in ClickHouse'}{but}")
        if not same:
            explain(got, want)
    return good


def explain(got, want):
    if got.num_rows != want.num_rows:
        print(f"  ClickHouse has {want.num_rows} rows")
        return
    for name in want.column_names:
        a, b = got.column(name), want.column(name)
        if a.equals(b):
            continue
        different = pc.fill_null(pc.not_equal(a, b), True)
        at = pc.index(different, True).as_py()
        print(f"  {name}, row {at}: {a[at].as_py()!r} instead of {b[at].as_py()!r}, types {a.type} and {b.type}")


def iceberg(root, table, chain):
    """Reads the Iceberg table over the files, if there is one, with pyiceberg."""
    versions = sorted((root / "iceberg" / "spillway" / table / "metadata").glob("v*.metadata.json"), key=lambda p: int(p.name[1:].split(".")[0]))
    files = [f for m in chain for f in m["files"] if f["table"] == table]
    if not versions or not files:
        return True
    logging.getLogger("pyiceberg").setLevel(logging.ERROR)
    schema = pq.read_schema(root / files[0]["path"])
    keys = NAMES[table] + (["closed_at"] if table == "days" else [])
    want = normal(pa.concat_tables([pq.read_table(root / f["path"], partitioning=None) for f in files]), schema, keys)
    got = normal(StaticTable.from_metadata(str(versions[-1])).scan().to_arrow(), schema, keys)
    same = got.equals(want)
    print(f"{table}: pyiceberg: {got.num_rows} rows, {'each as in the files' if same else 'NOT as in the files'}")
    if not same:
        explain(got, want)
    return same


def recipes(root, rows):
    """Runs duckdb.md's statements on the export, twice: the second time there is nothing fresh."""
    page = (pathlib.Path(__file__).parent / "duckdb.md").read_text()
    database = duckdb.connect()
    answers = []
    for block in 2 * re.findall(r"```sql\n(.*?)```", page, re.S):
        result = database.execute(block.replace("/srv/warehouse", str(root)))
        answers.append((block, result.fetchall()))
    counted = [a for b, a in answers if "AS listed" in b]
    good = counted == 2 * [[(rows, rows, rows)]]
    print(f"duckdb.md: {len(answers)} statements, events, names and listed rows are {counted}, {'as they should be' if good else f'NOT {rows}'}")
    return good


def main():
    arguments = [a for a in sys.argv[1:] if a != "--judged"]
    if len(arguments) != 2:
        sys.exit("usage: check [--judged] DIRECTORY http://USER:PASSWORD@HOST:PORT/DATABASE")
    root, clickhouse = pathlib.Path(arguments[0]), ClickHouse(arguments[1])
    chain = manifests(root)
    good = [check(clickhouse, root, table, chain, len(arguments) < len(sys.argv) - 1) for table in NAMES]
    good += [iceberg(root, table, chain) for table in NAMES]
    tables = {f["table"] for m in chain for f in m["files"]}
    if tables == set(NAMES):
        good.append(recipes(root, sum(f["rows"] for m in chain for f in m["files"] if f["table"] == "events")))
    sys.exit(0 if all(good) else 1)


main()
