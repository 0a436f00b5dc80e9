# Talks to a server of ours with the gem websocket.
#
# usage: client.rb 13|76|76-length PORT talk|wait|listen
#
# The draft hixie-76 knows no Content-Length; 76-length sends it nevertheless.
require 'socket'
require 'websocket'

WebSocket.should_raise = true
$stdout.sync = true
version, port, mode = ARGV
HIXIE = version != '13'
VERSION = version.to_i
SOCKET = TCPSocket.new('127.0.0.1', port.to_i)
SOCKET.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1)

# send_all sends its arguments with one call of write.
def send_all(*frames)
  bytes = frames.map(&:b).join
  n = SOCKET.syswrite(bytes)
  raise "wrote #{n} of #{bytes.bytesize} bytes" unless n == bytes.bytesize
end

url = "ws://127.0.0.1:#{port}/cats?lives=9"
headers = version == '76-length' ? { 'Content-Length' => '8' } : {}
handshake = WebSocket::Handshake::Client.new(url: url, version: VERSION, origin: 'http://127.0.0.1', headers: headers)
send_all(handshake.to_s)
# The library takes whatever follows the head for a part of the handshake, so it
# gets that and no more.
head = SOCKET.gets("\r\n\r\n").b
head << SOCKET.read(16) if HIXIE
handshake << head
raise "handshake: #{handshake.error}" unless handshake.finished? && handshake.valid?
if HIXIE # the library leaves these to its user
  raise head unless handshake.headers['sec-websocket-location'] == url
  raise head unless handshake.headers['sec-websocket-origin'] == 'http://127.0.0.1'
end

FRAMES = WebSocket::Frame::Incoming::Client.new(version: VERSION)

# next_frame returns the next message or control frame.
def next_frame(type = :text)
  until (frame = FRAMES.next)
    FRAMES << SOCKET.readpartial(1 << 16)
  end
  raise "#{frame.type} in place of #{type}" unless frame.type == type
  frame
end

def next_text
  next_frame.to_s
end

# frame returns the bytes of a frame. The library makes no fragments, but those
# differ only in their first byte.
def frame(type, payload = '', first: nil, **more)
  bytes = WebSocket::Frame::Outgoing::Client.new(version: VERSION, type: type, data: payload, **more).to_s.b
  bytes.setbyte(0, first) if first
  bytes
end

# check prints what came and fails if it is not what was expected.
def check(name, got, want)
  got = got.to_s.b
  puts "#{name}: ".b + got
  raise "#{name}: want #{want}" unless got == want.to_s.b
end

# check_end reads the server's close frame and the end of the stream.
def check_end(code, answer)
  frame = next_frame(:close)
  HIXIE ? check('close', 'FF 00', 'FF 00') : check('close', frame.code, code)
  send_all(HIXIE ? frame(:close) : frame(:close, code: code)) if answer
  rest = SOCKET.read
  check('end', rest.empty? ? 'EOF' : "#{rest.bytesize} bytes", 'EOF')
end

check('greeting', next_text, 'Do you read me, Lieutenant Bowie?')
if mode != 'talk'
  check('broadcast', next_text, 'Night falls.') if mode == 'listen'
  check_end(1001, true)
  exit
end

send_all(frame(:text, 'hello'))
check('hello', next_text, 'hello, meow.')

send_all(frame(:text, ''))
check('empty', next_text, ', meow.')

cat = "\u03b3\u03ac\u03c4\u03b1 \u{1f431}"
send_all(frame(:text, cat))
check('unicode', next_text, "#{cat}, meow.")

large = '0123456789' * 7000
send_all(frame(:text, large))
answer = next_text
raise 'large: other bytes' unless answer == "#{large}, meow."
check('large', "#{answer.bytesize} bytes", '70007 bytes')

send_all(frame(:text, 'one'), frame(:text, 'two'), frame(:text, 'three'))
check('batch', Array.new(3) { next_text }.join(' '), 'one, meow. two, meow. three, meow.')

unless HIXIE
  send_all(frame(:text, 'frag', first: 0x01))
  send_all(frame(:ping, 'purr'))
  send_all(frame(:text, 'mented', first: 0x80))
  check('pong', next_frame(:pong), 'purr')
  check('fragmented', next_text, 'fragmented, meow.')
end

send_all(HIXIE ? frame(:close) : frame(:close, code: 1000))
check_end(1000, false)
