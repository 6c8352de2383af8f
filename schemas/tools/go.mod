// The tools that generate and check; apart from the product, so that none of their dependencies enters it.
module spillway.dev/schemas/tools

go 1.26.0
