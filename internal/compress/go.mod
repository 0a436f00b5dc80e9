module github.com/54eee7d7/websocket/internal/compress

go 1.26

require (
	github.com/54eee7d7/websocket v0.0.0
	github.com/klauspost/compress v1.17.11
)

replace github.com/54eee7d7/websocket => ../..
