module spillway.dev/schemas

go 1.26.0

require (
	github.com/planetscale/vtprotobuf v0.6.0
	github.com/stretchr/testify v1.8.4
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/davecgh/go-spew v1.1.1 // indirect
	github.com/pmezard/go-difflib v1.0.0 // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
)
