# Talks to a server of ours with Protocol::WebSocket.
#
# usage: client.pl 13|76|76-length PORT talk|wait|listen
#
# The draft hixie-76 knows no Content-Length; 76-length sends it nevertheless.
use strict;
use warnings;
use Encode ();
use IO::Socket::INET;
use Protocol::WebSocket::Frame;
use Protocol::WebSocket::Handshake::Client;

my ($number, $port, $mode) = @ARGV;
my $hixie = $number ne '13';
my $version = $hixie ? 'draft-ietf-hybi-00' : 'draft-ietf-hybi-17';
$| = 1;

my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp')
  or die "connect: $@";
binmode $socket;

# send_all sends its arguments with one call of write.
sub send_all {
    my $bytes = join '', @_;
    my $n = syswrite $socket, $bytes;
    die "write: $!" unless defined $n && $n == length $bytes;
}

# receive returns some bytes, or an empty string at the end.
sub receive {
    my $n = sysread $socket, my $bytes, 1 << 16;
    die "read: $!" unless defined $n;
    return $bytes;
}

my $handshake = Protocol::WebSocket::Handshake::Client->new(
    url     => "ws://127.0.0.1:$port/cats?lives=9",
    version => $version,
);
$handshake->req->origin('http://127.0.0.1');
my $request = $handshake->to_string;    # with a Content-Length, if it is of hixie-76
if ($number eq '76') {
    $request =~ s/\r\nContent-Length: 8\r\n/\r\n/ or die $request;
}
send_all($request);
my $input = '';
until ($handshake->is_done) {
    my $bytes = receive();
    die 'the stream ended within the handshake' if $bytes eq '';
    $input .= $bytes;
    $handshake->parse($input) or die 'handshake: ' . $handshake->error;
}
if ($hixie) {    # the library leaves these to its user
    my $location = "ws://127.0.0.1:$port/cats?lives=9";
    die 'location: ' . $handshake->res->location unless $handshake->res->location eq $location;
    die 'origin: ' . $handshake->res->origin unless $handshake->res->origin eq 'http://127.0.0.1';
}

my $frames = Protocol::WebSocket::Frame->new(version => $version, max_payload_size => undef);
$frames->append($input);

# next_frame returns the next message, or the payload of a control frame.
sub next_frame {
    for (;;) {
        my $payload = $frames->next_bytes;
        return $payload if defined $payload;
        my $bytes = receive();
        die 'the stream ended' if $bytes eq '';
        $frames->append($bytes);
    }
}

sub next_text {
    my $payload = next_frame();
    die 'opcode ' . $frames->opcode unless $hixie || $frames->is_text;
    return $payload;
}

sub frame {
    my ($type, $payload, %more) = @_;
    return Protocol::WebSocket::Frame->new(
        version => $version, type => $type, buffer => $payload, masked => 1,
        max_payload_size => undef, %more
    )->to_bytes;
}

# check prints what came and dies if it is not what was expected.
sub check {
    my ($name, $got, $want) = @_;
    print "$name: $got\n";
    die "$name: want $want" unless $got eq $want;
}

# check_end reads the server's close frame and the end of the stream.
sub check_end {
    my ($code, $answer) = @_;
    my $payload = next_frame();
    die 'opcode ' . $frames->opcode unless $frames->is_close;
    check('close', $hixie ? 'FF 00' : unpack('n', $payload), $hixie ? 'FF 00' : $code);
    send_all(frame('close', pack 'n', $code)) if $answer;
    my $rest = receive();
    check('end', $rest eq '' ? 'EOF' : length($rest) . ' bytes', 'EOF');
}

check('greeting', next_text(), 'Do you read me, Lieutenant Bowie?');
if ($mode ne 'talk') {
    check('broadcast', next_text(), 'Night falls.') if $mode eq 'listen';
    check_end(1001, 1);
    exit;
}

send_all(frame(text => 'hello'));
check('hello', next_text(), 'hello, meow.');

send_all(frame(text => ''));
check('empty', next_text(), ', meow.');

my $cat = Encode::encode('UTF-8', "\x{3b3}\x{3ac}\x{3c4}\x{3b1} \x{1f431}");
send_all(frame(text => $cat));
check('unicode', next_text(), "$cat, meow.");

my $large = '0123456789' x 7000;
send_all(frame(text => $large));
my $answer = next_text();
die 'large: other bytes' unless $answer eq "$large, meow.";
check('large', length($answer) . ' bytes', '70007 bytes');

send_all(frame(text => 'one'), frame(text => 'two'), frame(text => 'three'));
check('batch', join(' ', map { next_text() } 1 .. 3), 'one, meow. two, meow. three, meow.');

unless ($hixie) {
    send_all(frame(text => 'frag', fin => 0));
    send_all(frame(ping => 'purr'));
    send_all(frame(continuation => 'mented', fin => 1));
    my $pong = next_frame();
    die 'opcode ' . $frames->opcode unless $frames->is_pong;
    check('pong', $pong, 'purr');
    check('fragmented', next_text(), 'fragmented, meow.');
}

send_all(frame('close', pack 'n', 1000));
check_end(1000, 0);
