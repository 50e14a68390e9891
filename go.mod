module github.com/fdkit/fdkit

go 1.26.0

require (
	github.com/pkg/errors v0.9.1
	golang.org/x/sys v0.49.0
)

require golang.org/x/net v0.62.0
