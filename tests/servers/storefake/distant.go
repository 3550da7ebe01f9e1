package main

import (
	"net"
	"sync/atomic"
	"time"
)

// distant makes connections as slow as those to a store far away: an answer begins one round trip after
// its request, a new connection takes one more, and each direction of a connection has a bandwidth of
// its own. TCP's slow start and TLS are not modelled.
type distant struct {
	net.Listener
	roundTrip time.Duration
	rate      float64 // bytes per second; 0 for any
}

func (d distant) Accept() (net.Conn, error) {
	accepted, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	connection := &distantConnection{Conn: accepted, roundTrip: d.roundTrip, rate: d.rate, delay: 2 * d.roundTrip}
	connection.answered.Store(true)
	return connection, nil
}

type distantConnection struct {
	net.Conn
	roundTrip time.Duration
	rate      float64
	answered  atomic.Bool   // whether the next bytes begin a request
	delay     time.Duration // of that request
	received  time.Time     // when the bytes so far were due, at this rate
	sent      time.Time
}

func (c *distantConnection) Read(buffer []byte) (int, error) {
	count, err := c.Conn.Read(buffer)
	if count > 0 && c.answered.CompareAndSwap(true, false) {
		time.Sleep(c.delay)
		c.delay = c.roundTrip
	}
	c.received = c.pass(c.received, count)
	return count, err
}

const segment = 64 << 10

func (c *distantConnection) Write(data []byte) (int, error) {
	c.answered.Store(true)
	written := 0
	for written < len(data) {
		count, err := c.Conn.Write(data[written:min(written+segment, len(data))])
		written += count
		c.sent = c.pass(c.sent, count)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// idle is longer than a sleep is late, for which the next one is shorter.
const idle = 10 * time.Millisecond

// pass waits until so many more bytes have passed, and returns when that was due.
func (c *distantConnection) pass(due time.Time, count int) time.Time {
	if c.rate == 0 {
		return due
	}
	if now := time.Now(); due.Before(now.Add(-idle)) {
		due = now
	}
	due = due.Add(time.Duration(float64(count) / c.rate * float64(time.Second)))
	time.Sleep(time.Until(due))
	return due
}
