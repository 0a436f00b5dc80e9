module github.com/54eee7d7/websocket/internal/nettest

go 1.26.0

require (
	github.com/54eee7d7/websocket v0.0.0
	golang.org/x/net v0.62.0
)

replace github.com/54eee7d7/websocket => ../..
