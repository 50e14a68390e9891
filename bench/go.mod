module github.com/fdkit/fdkit/bench

go 1.26.3

replace github.com/fdkit/fdkit => ../

require (
	github.com/cloudflare/tableflip v1.2.3
	github.com/fdkit/fdkit v0.0.0-00010101000000-000000000000
	github.com/ftrvxmtrx/fd v0.0.0-20150925145434-c6d800382fff
	github.com/fvbock/endless v0.0.0-20170109170031-447134032cb6
	github.com/hugelgupf/socketpair v0.0.0-20190730060125-05d35a94e714
	github.com/jpillora/overseer v1.1.6
	github.com/mdlayher/socket v0.8.0
	github.com/opencontainers/runc v1.5.2
	github.com/pkg/errors v0.9.1
	github.com/tailscale/peercred v0.0.0-20250107143737-35a0c7bd7edc
	golang.org/x/sys v0.49.0
	gvisor.dev/gvisor v0.0.0-20260905035102-160fafc42237
)

require (
	cyphar.com/go-pathrs v0.2.6 // indirect
	github.com/StackExchange/wmi v0.0.0-20190523213315-cbe66965904d // indirect
	github.com/cyphar/filepath-securejoin v0.7.0 // indirect
	github.com/go-ole/go-ole v1.2.4 // indirect
	github.com/jpillora/s3 v1.1.4 // indirect
	github.com/sirupsen/logrus v1.9.4 // indirect
	golang.org/x/exp v0.0.0-20250711185948-6ae5c78190dc // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/time v0.15.0 // indirect
)
