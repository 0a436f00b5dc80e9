module github.com/54eee7d7/websocket

go 1.26
