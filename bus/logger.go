package bus

import (
	"log/slog"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/reprise-bus/reprise/handlers"
)

// logger passes Watermill's log on. Watermill's level INFO becomes DEBUG. Its traces,
// several for each message, are dropped.
func logger(log *slog.Logger) watermill.LoggerAdapter {
	return untraced{watermill.NewSlogLoggerWithLevelMapping(log, map[slog.Level]slog.Level{slog.LevelInfo: slog.LevelDebug})}
}

type untraced struct{ watermill.LoggerAdapter }

func (untraced) Trace(string, watermill.LogFields) {}

// settled hides the errors of handlers from the router, which would log each as an ERROR
// and nack the message. Record has reported the run's end by then, and the subscriber
// logs the failure.
func settled(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		_, ours := handlers.DeliveryFrom(msg.Context())
		produced, err := next(msg)
		if ours {
			err = nil
		}
		return produced, err
	}
}

func (u untraced) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return untraced{u.LoggerAdapter.With(fields)}
}
