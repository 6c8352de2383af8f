// Package parquetfile writes ClickHouse's blocks as Parquet files that warehouses load well: files of 100 to 250 MB, row groups of
// 122 880 rows, zstd, dictionaries, statistics, page indexes, and bloom filters for what is looked up by value.
//
// It uses only what readers have understood for years: data pages of version 1, plain and dictionary encoding.
package parquetfile

import (
	"encoding/base64"
	"fmt"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/arrow-go/v18/parquet/schema"

	"spillway.dev/schemas/dictionary"
)

// RowGroupRows is the rows of a row group: what DuckDB works in, and within what Snowflake and BigQuery recommend.
const RowGroupRows = 122_880

const (
	// A page is the least that a reader with a page index must read: of values so many bytes, of numbers in a
	// dictionary so many rows, of words in one the whole row group.
	pageBytes = 256 << 10
	pageRows  = 32_768
	batchRows = 8192 // after so many rows it is looked whether a page is full
	// bloomDistinct is the distinct values that a bloom filter is made for where most rows have one of their own, bloomValues elsewhere: the filters
	// of a file stay in memory until it is ended.
	bloomDistinct = RowGroupRows
	bloomValues   = RowGroupRows / 4
	bloomBytes    = 256 << 10
)

// word is how a dictionary-encoded string looks in Arrow.
func word() *arrow.DictionaryType {
	return &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}
}

// arrowType is a column's type in Arrow.
func arrowType(t dictionary.Type) arrow.DataType {
	switch t {
	case dictionary.Int32:
		return arrow.PrimitiveTypes.Int32
	case dictionary.Int64:
		return arrow.PrimitiveTypes.Int64
	case dictionary.Bool:
		return arrow.FixedWidthTypes.Boolean
	case dictionary.Date:
		return arrow.FixedWidthTypes.Date32
	case dictionary.Timestamp:
		return &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}
	case dictionary.Word:
		return word()
	case dictionary.Text:
		return arrow.BinaryTypes.String
	}
	panic("BUG: column type " + t.Parquet() + " has no Arrow type")
}

// Schema is a table's schema as readers of its files see it. Each field has an id (its place from 1, which Iceberg goes by) and
// its description.
func Schema(t dictionary.Table) *arrow.Schema {
	fields := make([]arrow.Field, len(t.Columns))
	for i, c := range t.Columns {
		fields[i] = arrow.Field{
			Name: c.Name, Type: arrowType(c.Type), Nullable: c.Nullable,
			Metadata: arrow.NewMetadata([]string{"PARQUET:field_id", "description"}, []string{strconv.Itoa(i + 1), c.About}),
		}
	}
	return arrow.NewSchema(fields, nil)
}

// properties are the writer's settings for a table.
func properties(t dictionary.Table) *parquet.WriterProperties {
	options := []parquet.WriterProperty{
		parquet.WithAllocator(memory.DefaultAllocator),
		parquet.WithCompression(compress.Codecs.Zstd),
		// Level 1 of this encoder makes smaller files than level 3 of the reference, in half the time of its own level 3.
		parquet.WithCompressionLevel(1),
		parquet.WithVersion(parquet.V2_LATEST), // which logical types there are, not how pages look
		parquet.WithDataPageVersion(parquet.DataPageV1),
		parquet.WithDataPageSize(pageBytes),
		parquet.WithBatchSize(batchRows),
		parquet.WithMaxRowGroupLength(RowGroupRows),
		parquet.WithStats(true),
		parquet.WithPageIndexEnabled(true),
		parquet.WithMaxBloomFilterBytes(bloomBytes),
		parquet.WithCreatedBy("Spillway"),
	}
	for _, c := range t.Columns {
		if c.Distinct && (c.Type != dictionary.Text || c.Hexadecimal) { // whether strings are worth a dictionary is seen from them
			options = append(options, parquet.WithDictionaryFor(c.Name, false))
		}
		if c.Bloom {
			values := int64(bloomValues)
			if c.Distinct {
				values = bloomDistinct
			}
			options = append(options, parquet.WithBloomFilterEnabledFor(c.Name, true), parquet.WithBloomFilterFPPFor(c.Name, 0.01),
				parquet.WithBloomFilterNDVFor(c.Name, values))
		}
	}
	var sorting []parquet.SortingColumn
	for _, name := range t.Order {
		for i, c := range t.Columns {
			if c.Name == name {
				sorting = append(sorting, parquet.SortingColumn{ColumnIdx: int32(i)})
			}
		}
	}
	options = append(options, parquet.WithSortingColumns(sorting))
	return parquet.NewWriterProperties(options...)
}

// parquetSchema is the table's schema in Parquet, and the key-value metadata of its files.
func parquetSchema(t dictionary.Table, p *parquet.WriterProperties, more map[string]string) (*schema.Schema, metadata.KeyValueMetadata, error) {
	arrowSchema := Schema(t)
	parquetSchema, err := pqarrow.ToParquet(arrowSchema, p, pqarrow.DefaultWriterProps())
	if err != nil {
		return nil, nil, fmt.Errorf("Parquet schema of %s: %w", t.Name, err)
	}
	meta := metadata.NewKeyValueMetadata()
	add := func(key, value string) error {
		if err := meta.Append(key, value); err != nil {
			return fmt.Errorf("Parquet metadata %s: %w", key, err)
		}
		return nil
	}
	// What pyarrow, polars and others take the Arrow types from: without it a dictionary would be read as plain strings.
	if err := add("ARROW:schema", base64.StdEncoding.EncodeToString(flight.SerializeSchema(arrowSchema, p.Allocator()))); err != nil {
		return nil, nil, err
	}
	if err := add("spillway.table", t.Name); err != nil {
		return nil, nil, err
	}
	if err := add("spillway.schema.version", strconv.Itoa(dictionary.Version)); err != nil {
		return nil, nil, err
	}
	for _, key := range sortedKeys(more) {
		if err := add("spillway."+key, more[key]); err != nil {
			return nil, nil, err
		}
	}
	return parquetSchema, meta, nil
}
