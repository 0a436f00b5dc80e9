import io.netty.bootstrap.Bootstrap;
import io.netty.buffer.Unpooled;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioSocketChannel;
import io.netty.handler.codec.http.DefaultHttpHeaders;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpClientCodec;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.websocketx.CloseWebSocketFrame;
import io.netty.handler.codec.http.websocketx.ContinuationWebSocketFrame;
import io.netty.handler.codec.http.websocketx.PingWebSocketFrame;
import io.netty.handler.codec.http.websocketx.PongWebSocketFrame;
import io.netty.handler.codec.http.websocketx.TextWebSocketFrame;
import io.netty.handler.codec.http.websocketx.WebSocketClientHandshaker;
import io.netty.handler.codec.http.websocketx.WebSocketClientHandshakerFactory;
import io.netty.handler.codec.http.websocketx.WebSocketFrame;
import io.netty.handler.codec.http.websocketx.WebSocketVersion;
import java.io.PrintStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/**
 * Talks to a server of ours with Netty.
 *
 * <p>usage: Client V13|V00 PORT talk|wait|listen
 */
public class Client extends SimpleChannelInboundHandler<Object> {
    private final WebSocketClientHandshaker handshaker;
    private final boolean hixie;
    private final BlockingQueue<String> events = new LinkedBlockingQueue<>();
    private final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private Channel channel;

    Client(WebSocketVersion version, URI uri) {
        hixie = version == WebSocketVersion.V00;
        handshaker = WebSocketClientHandshakerFactory.newHandshaker(
                uri, version, null, false, new DefaultHttpHeaders(), 1 << 20);
    }

    @Override
    public void channelActive(ChannelHandlerContext ctx) {
        handshaker.handshake(ctx.channel());
    }

    @Override
    protected void channelRead0(ChannelHandlerContext ctx, Object msg) {
        if (msg instanceof FullHttpResponse) {
            handshaker.finishHandshake(ctx.channel(), (FullHttpResponse) msg);
        } else if (msg instanceof TextWebSocketFrame) {
            events.add("text " + ((TextWebSocketFrame) msg).text());
        } else if (msg instanceof PongWebSocketFrame) {
            events.add("pong " + ((WebSocketFrame) msg).content().toString(StandardCharsets.UTF_8));
        } else if (msg instanceof CloseWebSocketFrame) {
            events.add("close " + (hixie ? "FF 00" : ((CloseWebSocketFrame) msg).statusCode()));
        } else {
            events.add("error " + msg);
        }
    }

    @Override
    public void channelInactive(ChannelHandlerContext ctx) {
        events.add("end EOF");
    }

    @Override
    public void exceptionCaught(ChannelHandlerContext ctx, Throwable cause) {
        cause.printStackTrace();
        events.add("error " + cause);
    }

    private String next(String type) throws InterruptedException {
        String event = events.take();
        if (!event.startsWith(type + " ")) {
            throw new IllegalStateException(event + " in place of " + type);
        }
        return event.substring(type.length() + 1);
    }

    /** Prints what came and fails if it is not what was expected. */
    private void check(String name, String got, String want) {
        out.println(name + ": " + got);
        if (!got.equals(want)) {
            throw new IllegalStateException(name + ": want " + want);
        }
    }

    private void send(WebSocketFrame... frames) {
        for (WebSocketFrame frame : frames) {
            channel.write(frame);
        }
        channel.flush(); // of all of them at once
    }

    private static TextWebSocketFrame text(String s) {
        return new TextWebSocketFrame(s);
    }

    private CloseWebSocketFrame close(int code) {
        return hixie ? new CloseWebSocketFrame() : new CloseWebSocketFrame(code, "");
    }

    private void talk(String mode) throws InterruptedException {
        check("greeting", next("text"), "Do you read me, Lieutenant Bowie?");
        if (!mode.equals("talk")) {
            if (mode.equals("listen")) {
                check("broadcast", next("text"), "Night falls.");
            }
            check("close", next("close"), hixie ? "FF 00" : "1001");
            send(close(1001));
            check("end", next("end"), "EOF");
            return;
        }

        send(text("hello"));
        check("hello", next("text"), "hello, meow.");

        send(text(""));
        check("empty", next("text"), ", meow.");

        String cat = "\u03b3\u03ac\u03c4\u03b1 \ud83d\udc31";
        send(text(cat));
        check("unicode", next("text"), cat + ", meow.");

        if (!hixie) { // Netty loses frames of hixie-76 that arrive in pieces
            String large = "0123456789".repeat(7000);
            send(text(large));
            String answer = next("text");
            if (!answer.equals(large + ", meow.")) {
                throw new IllegalStateException("large: other bytes");
            }
            check("large", answer.length() + " bytes", "70007 bytes");
        }

        send(text("one"), text("two"), text("three"));
        String batch = next("text") + " " + next("text") + " " + next("text");
        check("batch", batch, "one, meow. two, meow. three, meow.");

        if (!hixie) {
            send(new TextWebSocketFrame(false, 0, "frag"));
            send(new PingWebSocketFrame(Unpooled.copiedBuffer("purr", StandardCharsets.UTF_8)));
            send(new ContinuationWebSocketFrame(true, 0, "mented"));
            check("pong", next("pong"), "purr");
            check("fragmented", next("text"), "fragmented, meow.");
        }

        send(close(1000));
        check("close", next("close"), hixie ? "FF 00" : "1000");
        check("end", next("end"), "EOF");
    }

    public static void main(String[] args) throws Exception {
        URI uri = new URI("ws://127.0.0.1:" + args[1] + "/cats?lives=9");
        Client client = new Client(WebSocketVersion.valueOf(args[0]), uri);
        int status = 1;
        try {
            client.channel = new Bootstrap()
                    .group(new NioEventLoopGroup(1))
                    .channel(NioSocketChannel.class)
                    .handler(new ChannelInitializer<SocketChannel>() {
                        @Override
                        protected void initChannel(SocketChannel channel) {
                            channel.pipeline().addLast(new HttpClientCodec(), new HttpObjectAggregator(8192), client);
                        }
                    })
                    .connect(uri.getHost(), uri.getPort())
                    .sync()
                    .channel();
            client.talk(args[2]);
            status = 0;
        } catch (Exception e) {
            e.printStackTrace();
        }
        System.exit(status); // whatever the event loop does
    }
}
