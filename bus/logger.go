package bus

import (
	"log/slog"

	"github.com/ThreeDotsLabs/watermill"
)

// logger passes on what Watermill logs. What it calls information is for
// debugging here, and its traces, several for each message, are left out.
func logger(log *slog.Logger) watermill.LoggerAdapter {
	return untraced{watermill.NewSlogLoggerWithLevelMapping(log, map[slog.Level]slog.Level{slog.LevelInfo: slog.LevelDebug})}
}

type untraced struct{ watermill.LoggerAdapter }

func (untraced) Trace(string, watermill.LogFields) {}

func (u untraced) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return untraced{u.LoggerAdapter.With(fields)}
}
